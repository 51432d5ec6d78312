#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string_view>

#include "runtime/fence.h"
#include "tensor/tensor.h"

namespace flux {

class Context;
class Kernels;

/// Base of what a device keeps for one context: a stream, plans of its libraries, buffers.
class DeviceState {
 public:
  virtual ~DeviceState() = default;
};

/// The memory of one device and the order of the work on it. Context, Workspace and MemoryPool need
/// no more of a device than this; the ops are its Kernels. One DeviceRuntime serves all contexts of
/// its device and is thread-safe.
class DeviceRuntime {
 public:
  virtual ~DeviceRuntime() = default;

  virtual Device device() const = 0;
  /// Memory of the device, aligned to 64 bytes; null when there is not as much.
  virtual std::shared_ptr<std::byte> allocate(size_t bytes) const = 0;
  /// From now on allocate() gives nothing beyond `bytes` in all, which is at least 0; memory that
  /// is held already stays. Throws kUnsupported where memory cannot be limited.
  virtual void limit_memory(int64_t bytes);
  /// About how many bytes allocate() could give now.
  virtual int64_t available_bytes() const { return std::numeric_limits<int64_t>::max(); }

  /// Copies x to out: contiguous, of one shape and dtype, not the same memory, each on the host or
  /// on a device of this kind.
  virtual void copy(Context& ctx, const ConstTensor& x, const Tensor& out) = 0;

  /// The state that a new context keeps; may be null.
  virtual std::unique_ptr<DeviceState> make_state() { return nullptr; }
  /// Waits for all work that the context began; does nothing where ops end before they return.
  virtual void finish(Context& /*ctx*/) {}
  /// A fence behind all work that the context began; null where ops end before they return.
  virtual std::shared_ptr<const Fence> make_fence(Context& /*ctx*/) { return nullptr; }
  /// Lets the context's next work begin when `fence`, of a device of this kind, is reached.
  virtual void wait_for(Context& /*ctx*/, const Fence& /*fence*/) {}

  /// Whether a profiler is attached that shows named ranges of the host's time.
  virtual bool has_profiler() const { return false; }
  /// Opens a range of the calling thread; it lasts until the matching pop_range().
  virtual void push_range(const char* /*name*/) {}
  virtual void pop_range() {}

  /// The ops of the device (ops/kernels.h); null for a device that has memory only.
  virtual Kernels* as_kernels() { return nullptr; }
};

/// Throws kUnavailable: the device has no `bytes` for `purpose`.
[[noreturn]] void fail_out_of_memory(const DeviceRuntime& runtime, size_t bytes,
                                     std::string_view purpose);

}  // namespace flux
