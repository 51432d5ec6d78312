#include "ops/cuda/cuda_backend.h"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/state.h"

namespace flux::cuda {

void CudaBackend::euler_step(Context& ctx, const Tensor& latents, const EulerStep& step) {
  const EulerValues args{.latents = address(ctx, latents),
                         .count = latents.numel(),
                         .delta = round_to(latents.dtype(), step.delta),
                         .prediction = address(ctx, step.prediction),
                         .negative = optional_address(ctx, step.negative),
                         .cfg_scale = step.cfg_scale};
  check_cuda(euler_values(args, latents.dtype(), state_of(ctx).stream()), "euler_step");
}

void CudaBackend::unpack_tokens(Context& ctx, const Tensor& packed, float divisor, float shift,
                                const Tensor& out) {
  const UnpackValues args{.packed = address(ctx, packed),
                          .channels = out.size(0),
                          .height = out.size(1),
                          .width = out.size(2),
                          .divisor = divisor,
                          .shift = shift,
                          .out = address(ctx, out)};
  check_cuda(unpack_values(args, out.dtype(), state_of(ctx).stream()), "unpack_tokens");
}

void CudaBackend::to_bytes(Context& ctx, const Tensor& x, const Tensor& out) {
  auto* bytes = static_cast<uint8_t*>(address(ctx, out));
  check_cuda(
      byte_pixels(optional_floats(ctx, x), x.size(1) * x.size(2), bytes, state_of(ctx).stream()),
      "to_bytes");
}

}  // namespace flux::cuda
