#include "layers/norms.h"

namespace flux {

LayerNorm::LayerNorm(const WeightScope& scope, int64_t features, float eps) {
  params_.weight = scope.take_f32("weight", {features});
  params_.bias = scope.take_f32("bias", {features});
  params_.eps = eps;
}

RmsNorm::RmsNorm(const WeightScope& scope, int64_t features, float eps)
    : weight_(scope.take_f32("weight", {features})), eps_(eps) {}

GroupNorm::GroupNorm(const WeightScope& scope, int64_t channels, int64_t groups,
                     Activation activation) {
  params_.weight = scope.take_f32("weight", {channels});
  params_.bias = scope.take_f32("bias", {channels});
  params_.groups = groups;
  params_.activation = activation;
}

}  // namespace flux
