#pragma once

#include "ops/kernels.h"

namespace flux::cpu {

/// Backend that computes the ops on the host. Each member is in the file named after it; products
/// of bf16 and some convolutions are oneDNN's (onednn.h), the rest are loops that the compiler
/// vectorises.
class CpuBackend : public Backend {
 public:
  Device device() const override;
  std::shared_ptr<std::byte> allocate(size_t bytes) const override;
  void copy(Context& ctx, const ConstTensor& x, const Tensor& out) override;
  bool supports(DType dtype) const override;

  FLUX_OPS(FLUX_OVERRIDE_OP)
};

}  // namespace flux::cpu
