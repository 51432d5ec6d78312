#include "layers/norms.h"

namespace flux {

LayerNorm::LayerNorm(Context& ctx, const WeightScope& scope, int64_t features, float eps) {
  params_.weight = to_device(ctx, scope.take_f32("weight", {features}));
  params_.bias = to_device(ctx, scope.take_f32("bias", {features}));
  params_.eps = eps;
}

RmsNorm::RmsNorm(Context& ctx, const WeightScope& scope, int64_t features, float eps)
    : weight_(to_device(ctx, scope.take_f32("weight", {features}))), eps_(eps) {}

GroupNorm::GroupNorm(Context& ctx, const WeightScope& scope, int64_t channels, int64_t groups,
                     Activation activation) {
  params_.weight = to_device(ctx, scope.take_f32("weight", {channels}));
  params_.bias = to_device(ctx, scope.take_f32("bias", {channels}));
  params_.groups = groups;
  params_.activation = activation;
}

}  // namespace flux
