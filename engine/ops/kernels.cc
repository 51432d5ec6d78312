#include "ops/kernels.h"

#include "support/error.h"
#include "support/log.h"
#include "tensor/format.h"

namespace flux {

void Kernels::refuse(const char* op) {
  fail(ErrorCode::kUnsupported, "the op {} is not implemented for this device", op);
}

void Backend::require(DType dtype, Quantization quantization) const {
  check(supports(dtype), ErrorCode::kUnsupported,
        "dtype {0} cannot be computed on {1}: use --dtype f32 or --dtype bf16; a checkpoint stored "
        "in {0} needs one of them",
        dtype, device());
  const Support how = support(quantization, dtype);
  check(how != Support::kNo, ErrorCode::kUnsupported,
        "quantization {} cannot be computed on {}: its compute capability is below 8.9; use "
        "--quantization none",
        name_of(quantization), device());
  if (how == Support::kByValues) {
    log_warning("quantization {}: products on {} are of {}, with the values of the {} weights",
                name_of(quantization), device(), dtype, name_of(quantization));
  }
}

Kernels& kernels_of(const Context& ctx) {
  Kernels* kernels = ctx.runtime().as_kernels();
  check(kernels != nullptr, ErrorCode::kUnsupported, "{} computes nothing: it has memory only",
        ctx.device());
  return *kernels;
}

int64_t useful_tokens(const Context& ctx) { return kernels_of(ctx).useful_tokens(); }

bool attends_in_e4m3(const Context& ctx, DType dtype, int64_t head_dim) {
  return kernels_of(ctx).attends_in_e4m3(dtype, head_dim);
}

}  // namespace flux
