#pragma once

#include <memory>

#include "ops/ops.h"

namespace flux::triton {

/// Lets a stage answer a nested call before its GPU is done. `bls` and the stage are in one
/// process: beside the server they give each other the fences that their GPU work has to wait for,
/// so that no host thread waits. A stage need not take part (one in Python or on the CPU does not);
/// it then reads its inputs as they are when the call arrives.
///
/// The stage finds the handover by the address of the output that it is to write. The caller chose
/// that memory, and no client can name it.
class Handover {
 public:
  /// Registers a call that writes `output`, in GPU memory, and whose inputs are there when `ready`
  /// has been reached (null: they are there). `output` must stay until the server has released the
  /// call.
  Handover(const Tensor& output, std::shared_ptr<const Fence> ready);
  ~Handover();
  Handover(const Handover&) = delete;
  Handover& operator=(const Handover&) = delete;

  /// For the stage: the handover of the output that it is to write, or null. The handover stays
  /// until the stage releases the request.
  static Handover* find(const Tensor& output);
  /// For the stage, before it reads inputs: ops of `ctx` begin when the inputs are there.
  void take_part(Context& ctx);
  /// For the stage, before it answers: the output is there when `done` has been reached.
  void answer(std::shared_ptr<const Fence> done) { done_ = std::move(done); }

  /// For the caller, after the response: whether the stage took part.
  bool taken() const { return taken_; }
  /// For the caller, after the response: the fence behind which the output is there; null when it
  /// is there already.
  const Fence* done() const { return done_.get(); }

 private:
  const void* output_;
  std::shared_ptr<const Fence> ready_;
  std::shared_ptr<const Fence> done_;
  bool taken_ = false;
};

}  // namespace flux::triton
