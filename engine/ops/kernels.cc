#include "ops/kernels.h"

#include "support/error.h"
#include "support/log.h"
#include "tensor/format.h"

namespace flux {

void Kernels::refuse(const char* op) {
  fail(ErrorCode::kUnsupported, "the op {} is not implemented for this device", op);
}

void Backend::require(const Precision& precision) const {
  const DType dtype = precision.activations;
  check(supports(dtype), ErrorCode::kUnsupported,
        "dtype {0} cannot be computed on {1}: use --dtype f32 or --dtype bf16; a checkpoint stored "
        "in {0} needs one of them",
        dtype, device());
  const auto support_of = [&](bool fp8, const char* option, const char* otherwise) {
    const Support how = support(fp8 ? Quantization::kFp8 : Quantization::kNone, dtype);
    check(how != Support::kNo, ErrorCode::kUnsupported,
          "{0} fp8 cannot be computed on {1}: its compute capability is below 8.9; use --{0} {2}",
          option, device(), otherwise);
    return how;
  };
  const bool fp8_linears = precision.quantization == Quantization::kFp8;
  if (support_of(fp8_linears, "quantization", "none") == Support::kByValues) {
    log_warning("quantization fp8: products on {} are of {}, with the values of the fp8 weights",
                device(), dtype);
  }
  const bool fp8_attention = precision.attention == AttentionPrecision::kFp8;
  if (support_of(fp8_attention, "attention", "bf16") == Support::kByValues) {
    log_warning("attention fp8: attention on {} is of {}", device(), dtype);
  }
}

Kernels& kernels_of(const Context& ctx) {
  Kernels* kernels = ctx.runtime().as_kernels();
  check(kernels != nullptr, ErrorCode::kUnsupported, "{} computes nothing: it has memory only",
        ctx.device());
  return *kernels;
}

int64_t useful_tokens(const Context& ctx) { return kernels_of(ctx).useful_tokens(); }

}  // namespace flux
