#pragma once

#include <functional>
#include <memory>
#include <string_view>

#include "ops/memory_pool.h"
#include "ops/workspace.h"
#include "tensor/tensor.h"

namespace flux {

class Backend;

/// What a backend keeps for one context: a stream, plans of its libraries, buffers.
class DeviceState {
 public:
  virtual ~DeviceState() = default;
};

/// What a forward runs with: the device's ops, scratch memory, threads, and who watches.
/// One Context belongs to one thread at a time; weights are shared between contexts.
class Context {
 public:
  using Trace = std::function<void(std::string_view name, const Tensor& value)>;
  using CancelCheck = std::function<bool()>;

  /// `threads` >= 1: how many CPU threads ops may use; results never depend on it.
  Context(Backend& backend, int threads);

  Backend& backend() const { return *backend_; }
  int threads() const { return threads_; }
  Workspace& workspace() { return workspace_; }
  /// Memory for tensors that outlive a forward; pooled_tensor() takes it.
  MemoryPool& memory() const { return *memory_; }
  /// What Backend::make_state() gave; may be null.
  DeviceState* state() const { return state_.get(); }

  /// A listener for intermediate values, named like diffusers' modules and, where one gives a
  /// tuple, the position in it ("transformer_blocks.3.1"). The tensor is in host memory and only
  /// valid during the call.
  void set_trace(Trace trace) { trace_ = std::move(trace); }
  void trace(std::string_view name, const Tensor& value) {
    if (trace_) hand_out(name, value);
  }

  /// `cancelled` is asked between blocks of a model; true makes the forward throw kCancelled.
  void set_cancel_check(CancelCheck cancelled) { cancelled_ = std::move(cancelled); }
  /// Throws kCancelled when the caller asked to stop.
  void poll_cancel() const;

 private:
  void hand_out(std::string_view name, const Tensor& value);

  Backend* backend_;
  int threads_;
  std::unique_ptr<DeviceState> state_;
  Workspace workspace_;
  std::shared_ptr<MemoryPool> memory_;
  Trace trace_;
  CancelCheck cancelled_;
};

/// Threads to use when the user names no number: one for each physical core that this process may
/// run on, but no more than the CPUs that its container is limited to.
int default_threads();

}  // namespace flux
