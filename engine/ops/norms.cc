#include "ops/checks.h"
#include "ops/kernels.h"

namespace flux {

namespace {

void check_part(const Context& ctx, const LayerNormPart& part, int64_t columns) {
  const auto& [x, params, out, out_scales] = part;
  check_activation(ctx, "layer_norm", "x", x, x.dtype(), {x.size(0), columns});
  if (out_scales.scales.defined()) {
    check_e4m3(ctx, "layer_norm", "out", out, out_scales.scales, x.shape());
    check_parameter(ctx, "layer_norm", "norms", out_scales.norms, {x.size(0)});
  } else {
    check_activation(ctx, "layer_norm", "out", out, x.dtype(), x.shape());
  }
  const Shape width{columns};
  check_optional_parameter(ctx, "layer_norm", "weight", params.weight, width);
  check_optional_parameter(ctx, "layer_norm", "bias", params.bias, width);
  check_optional_parameter(ctx, "layer_norm", "scale", params.scale, width);
  check_optional_parameter(ctx, "layer_norm", "shift", params.shift, width);
  check(params.scale.defined() == params.shift.defined(), ErrorCode::kInternal,
        "layer_norm: scale and shift must both be given or both be left out");
}

}  // namespace

void layer_norm(Context& ctx, const ConstTensor& x, const LayerNormParams& params,
                const Tensor& out) {
  const LayerNormPart part{x, params, out, {}};
  layer_norm(ctx, {&part, 1});
}

void layer_norm(Context& ctx, std::span<const LayerNormPart> parts) {
  const Context::Range range(ctx, "layer_norm");
  for (const LayerNormPart& part : parts) {
    check_rank("layer_norm", "x", part.x, 2);
    check_part(ctx, part, parts[0].x.size(1));
  }
  kernels_of(ctx).layer_norm(ctx, parts);
}

void rms_norm(Context& ctx, const ConstTensor& x, const ConstTensor& weight, float eps,
              const Tensor& out) {
  const Context::Range range(ctx, "rms_norm");
  check_rank("rms_norm", "x", x, 2);
  check_activation(ctx, "rms_norm", "x", x, x.dtype());
  check_activation(ctx, "rms_norm", "out", out, x.dtype(), x.shape());
  check_parameter(ctx, "rms_norm", "weight", weight, {x.size(1)});
  kernels_of(ctx).rms_norm(ctx, x, weight, eps, out);
}

void rms_norm_rope(Context& ctx, const Tensor& x, const ConstTensor& weight, float eps,
                   const RopeTable& rope) {
  const Context::Range range(ctx, "rms_norm_rope");
  check_rank("rms_norm_rope", "x", x, 3);
  check_activation(ctx, "rms_norm_rope", "x", x, x.dtype());
  const int64_t head_dim = x.size(2);
  check(head_dim % 2 == 0, ErrorCode::kInternal,
        "rms_norm_rope: head_dim of {} must be even, for pairs are rotated", x);
  check_parameter(ctx, "rms_norm_rope", "weight", weight, {head_dim});
  check_parameter(ctx, "rms_norm_rope", "cos", rope.cos, {x.size(0), head_dim / 2});
  check_parameter(ctx, "rms_norm_rope", "sin", rope.sin, {x.size(0), head_dim / 2});
  kernels_of(ctx).rms_norm_rope(ctx, x, weight, eps, rope);
}

void group_norm(Context& ctx, const ConstTensor& x, const GroupNormParams& params,
                const Tensor& out) {
  const Context::Range range(ctx, "group_norm");
  check(x.rank() == 2 || x.rank() == 3, ErrorCode::kInternal,
        "group_norm: x is {}, but [pixels, channels] or [h, w, channels] is needed", x);
  check_activation(ctx, "group_norm", "x", x, x.dtype());
  check_activation(ctx, "group_norm", "out", out, x.dtype(), x.shape());
  check_contiguous("group_norm", "x", x);
  check_contiguous("group_norm", "out", out);
  const int64_t channels = x.size(-1);
  check(params.groups >= 1 && channels % params.groups == 0, ErrorCode::kInternal,
        "group_norm: {} channels cannot be divided into {} groups", channels, params.groups);
  check_parameter(ctx, "group_norm", "weight", params.weight, {channels});
  check_parameter(ctx, "group_norm", "bias", params.bias, {channels});
  check(params.activation == Activation::kNone || params.activation == Activation::kSilu,
        ErrorCode::kInternal, "group_norm: the activation must be none or SiLU");
  kernels_of(ctx).group_norm(ctx, x, params, out);
}

}  // namespace flux
