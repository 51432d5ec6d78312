#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "runtime/device_runtime.h"
#include "runtime/memory_pool.h"
#include "runtime/workspace.h"
#include "tensor/tensor.h"

namespace flux {

/// A caller's share of a device: scratch memory, threads, a stream, and the listeners of a forward.
/// One Context belongs to one thread at a time; weights are shared between contexts.
class Context {
 public:
  using Trace = std::function<void(std::string_view name, const ConstTensor& value)>;
  using CancelCheck = std::function<bool()>;

  /// `threads` >= 1: how many CPU threads ops may use; results never depend on it. `shared`: see
  /// MemoryPool.
  Context(DeviceRuntime& runtime, int threads, std::shared_ptr<MemoryPool> shared = nullptr);

  DeviceRuntime& runtime() const { return *runtime_; }
  const Device& device() const { return device_; }
  int threads() const { return threads_; }
  Workspace& workspace() { return workspace_; }
  /// Memory for tensors that outlive a forward; pooled_tensor() takes it.
  MemoryPool& memory() const { return *memory_; }
  /// The result of DeviceRuntime::make_state(); may be null.
  DeviceState* state() const { return state_.get(); }

  /// A listener for intermediate values, named like diffusers' modules and, where one gives a
  /// tuple, the position in it ("transformer_blocks.3.1"). The tensor is in host memory and only
  /// valid during the call.
  void set_trace(Trace trace) { trace_ = std::move(trace); }
  void trace(std::string_view name, const ConstTensor& value) {
    if (trace_) hand_out(name, value);
  }
  /// Whether there is a listener: names that have to be composed are composed for it alone.
  bool is_traced() const { return trace_ != nullptr; }

  /// A named part of the host's time, as profilers show it: "transformer_blocks.3". Costs nothing
  /// while no profiler is attached.
  class Range {
   public:
    Range(const Context& ctx, const char* name, int64_t index = kNoIndex)
        : runtime_(ctx.is_profiled_ ? ctx.runtime_ : nullptr) {
      if (runtime_ != nullptr) [[unlikely]]
        open(name, index);
    }
    ~Range() {
      if (runtime_ != nullptr) [[unlikely]]
        runtime_->pop_range();
    }
    Range(const Range&) = delete;
    Range& operator=(const Range&) = delete;

   private:
    static constexpr int64_t kNoIndex = -1;
    void open(const char* name, int64_t index) const;

    DeviceRuntime* runtime_;
  };

  /// `cancelled` is asked between blocks of a model; true makes the forward throw kCancelled.
  void set_cancel_check(CancelCheck cancelled) { cancelled_ = std::move(cancelled); }
  /// Throws kCancelled when the caller asked to stop.
  void poll_cancel() const;

 private:
  void hand_out(std::string_view name, const ConstTensor& value);

  DeviceRuntime* runtime_;
  bool is_profiled_;
  Device device_;
  int threads_;
  std::unique_ptr<DeviceState> state_;
  Workspace workspace_;
  std::shared_ptr<MemoryPool> memory_;
  Trace trace_;
  CancelCheck cancelled_;
};

}  // namespace flux
