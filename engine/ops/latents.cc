#include "ops/checks.h"
#include "ops/kernels.h"

namespace flux {

void euler_step(Context& ctx, const Tensor& latents, const EulerStep& step) {
  const Context::Range range(ctx, "euler_step");
  const DType dtype = latents.dtype();
  check_activation(ctx, "euler_step", "latents", latents, dtype);
  check_activation(ctx, "euler_step", "prediction", step.prediction, dtype, latents.shape());
  check_contiguous("euler_step", "latents", latents);
  check_contiguous("euler_step", "prediction", step.prediction);
  if (step.negative.defined()) {
    check_activation(ctx, "euler_step", "negative", step.negative, dtype, latents.shape());
    check_contiguous("euler_step", "negative", step.negative);
  }
  if (latents.numel() > 0) kernels_of(ctx).euler_step(ctx, latents, step);
}

void scale_noise(Context& ctx, const Tensor& latents, const NoisedImage& noised) {
  const Context::Range range(ctx, "scale_noise");
  const auto check_operand = [&](const char* name, const ConstTensor& operand) {
    check_activation(ctx, "scale_noise", name, operand, latents.dtype(), latents.shape());
    check_contiguous("scale_noise", name, operand);
  };
  check_operand("latents", latents);
  check_operand("image", noised.image);
  check_operand("noise", noised.noise);
  if (noised.mask.defined()) check_operand("mask", noised.mask);
  if (latents.numel() > 0) kernels_of(ctx).scale_noise(ctx, latents, noised);
}

void unpack_tokens(Context& ctx, const ConstTensor& packed, float divisor, float shift,
                   const Tensor& out) {
  const Context::Range range(ctx, "unpack_tokens");
  check_rank("unpack_tokens", "packed", packed, 2);
  check_rank("unpack_tokens", "out", out, 3);
  check_activation(ctx, "unpack_tokens", "packed", packed, packed.dtype(),
                   {out.size(1) / 2 * (out.size(2) / 2), 4 * out.size(0)});
  check_activation(ctx, "unpack_tokens", "out", out, packed.dtype());
  check_contiguous("unpack_tokens", "packed", packed);
  check_contiguous("unpack_tokens", "out", out);
  if (out.numel() > 0) kernels_of(ctx).unpack_tokens(ctx, packed, divisor, shift, out);
}

void to_bytes(Context& ctx, const ConstTensor& x, const Tensor& out) {
  const Context::Range range(ctx, "to_bytes");
  check_rank("to_bytes", "x", x, 3);
  check_parameter(ctx, "to_bytes", "x", x, {3, x.size(1), x.size(2)});
  check(out.dtype() == DType::kU8 && out.shape() == Shape{x.size(1), x.size(2), 3} &&
            out.is_contiguous(),
        ErrorCode::kInternal, "to_bytes: {} to {}", x, out);
  if (out.numel() > 0) kernels_of(ctx).to_bytes(ctx, x, out);
}

}  // namespace flux
