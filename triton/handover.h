#pragma once

#include <memory>

#include "ops/ops.h"

namespace flux::triton {

/// Lets a stage on a GPU answer a nested call before its GPU is done. `bls` and the stage are of
/// one process, so they can agree beside the server on what each other's GPU work has to wait for;
/// the host need not. A stage that does not take part (it runs in Python, or on the CPU) is not
/// harmed, but it reads inputs as they are when the call arrives.
///
/// Found by the memory that the stage writes its output to: the caller chose it, and no client can
/// name it.
class Handover {
 public:
  /// Of a call whose inputs are there when `ready` has been reached, and which writes `output`, in
  /// GPU memory. `output` must stay until the server has let go of the call.
  Handover(const Tensor& output, std::shared_ptr<const Fence> ready);
  ~Handover();
  Handover(const Handover&) = delete;
  Handover& operator=(const Handover&) = delete;

  /// For the stage: the handover of what it is to write, or null. It stays until the request is
  /// released.
  static Handover* find(const Tensor& output);
  /// For the stage, before it reads inputs: ops of `ctx` begin when they are there.
  void take_part(Context& ctx);
  /// For the stage, before it answers: the output is there when `done` has been reached.
  void answer(std::shared_ptr<const Fence> done) { done_ = std::move(done); }

  /// For the caller, after the response: whether the stage took part.
  bool taken() const { return taken_; }
  /// Null when the output is there.
  const Fence* done() const { return done_.get(); }

 private:
  const void* output_;
  std::shared_ptr<const Fence> ready_;
  std::shared_ptr<const Fence> done_;
  bool taken_ = false;
};

}  // namespace flux::triton
