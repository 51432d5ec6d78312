#include "ops/checks.h"
#include "ops/kernels.h"

namespace flux {
namespace {

constexpr int64_t kMaxChannels = int64_t{1} << 20;
constexpr int64_t kMaxKernel = 63;

}  // namespace

Conv2dWeights pack_conv2d(Context& ctx, const ConstTensor& weight, const ConstTensor& bias,
                          DType dtype, ConvSize size) {
  check_rank("pack_conv2d", "weight", weight, 4);
  const int64_t out = weight.size(0);
  const int64_t in = weight.size(1);
  const int64_t kernel = weight.size(2);
  check(weight.defined() && is_floating_point(weight.dtype()) && weight.is_contiguous() &&
            weight.size(3) == kernel && kernel % 2 == 1 && kernel <= kMaxKernel && in >= 1 &&
            out >= 1 && in <= kMaxChannels && out <= kMaxChannels,
        ErrorCode::kInternal,
        "pack_conv2d: weight is {}, but contiguous floats [out, in, k, k] with k odd and at most "
        "{} and at most {} channels are needed",
        weight, kMaxKernel, kMaxChannels);
  check(bias.defined() && is_floating_point(bias.dtype()) && bias.shape() == Shape{out},
        ErrorCode::kInternal, "pack_conv2d: bias is {}, but floats [{}] are needed", bias, out);
  check(dtype == DType::kF32 || dtype == DType::kBF16, ErrorCode::kInternal,
        "pack_conv2d: dtype {}, but f32 or bf16 is needed", dtype);
  return {in,    out,  kernel,
          dtype, size, kernels_of(ctx).pack_conv2d(ctx, weight, bias, dtype, size)};
}

void conv2d(Context& ctx, const ConstTensor& x, const Conv2dWeights& weights,
            const ConstTensor& residual, const Tensor& out) {
  const Context::Range range(ctx, "conv2d");
  check(weights.packed != nullptr, ErrorCode::kInternal, "conv2d: weights are not packed");
  check_rank("conv2d", "x", x, 3);
  check(weights.size != ConvSize::kHalved || (x.size(0) % 2 == 0 && x.size(1) % 2 == 0),
        ErrorCode::kInternal, "conv2d: x is {}, but even sides are needed to halve them", x);
  const Shape result{conv_side(weights.size, x.size(0)), conv_side(weights.size, x.size(1)),
                     weights.out_channels};
  check_activation(ctx, "conv2d", "x", x, weights.dtype,
                   {x.size(0), x.size(1), weights.in_channels});
  check_activation(ctx, "conv2d", "out", out, weights.dtype, result);
  check_contiguous("conv2d", "x", x);
  check_contiguous("conv2d", "out", out);
  if (residual.defined()) {
    check_activation(ctx, "conv2d", "residual", residual, weights.dtype, result);
    check_contiguous("conv2d", "residual", residual);
  }
  if (result.numel() == 0) return;
  check(x.raw() != out.raw(), ErrorCode::kInternal, "conv2d: out must not alias x");
  kernels_of(ctx).conv2d(ctx, x, weights, residual, out);
}

}  // namespace flux
