#include "layers/norms.h"

namespace flux {

LayerNorm::LayerNorm(const Loader& load, int64_t features, float eps) {
  params_.weight = load.vector("weight", features);
  params_.bias = load.vector("bias", features);
  params_.eps = eps;
}

RmsNorm::RmsNorm(const Loader& load, int64_t features, float eps)
    : weight_(load.vector("weight", features)), eps_(eps) {}

GroupNorm::GroupNorm(const Loader& load, int64_t channels, int64_t groups, Activation activation) {
  params_.weight = load.vector("weight", channels);
  params_.bias = load.vector("bias", channels);
  params_.groups = groups;
  params_.activation = activation;
}

}  // namespace flux
