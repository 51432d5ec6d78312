#pragma once

#include "layers/loader.h"

namespace flux {

/// torch.nn.LayerNorm with weight and bias.
class LayerNorm {
 public:
  LayerNorm() = default;
  LayerNorm(const Loader& load, int64_t features, float eps);

  /// x, out: [rows, features]; out may be x.
  void operator()(Context& ctx, const ConstTensor& x, const Tensor& out) const {
    layer_norm(ctx, x, params_, out);
  }

 private:
  LayerNormParams params_;
};

/// transformers' T5LayerNorm: no mean, no bias.
class RmsNorm {
 public:
  RmsNorm() = default;
  RmsNorm(const Loader& load, int64_t features, float eps);

  /// x, out: [rows, features]; out may be x.
  void operator()(Context& ctx, const ConstTensor& x, const Tensor& out) const {
    rms_norm(ctx, x, weight_, eps_, out);
  }

 private:
  ConstTensor weight_;
  float eps_ = 0;
};

/// torch.nn.GroupNorm over channels-last images, with the SiLU that follows it or without.
class GroupNorm {
 public:
  GroupNorm() = default;
  GroupNorm(const Loader& load, int64_t channels, int64_t groups, Activation activation);

  /// x, out: [h, w, channels] or [pixels, channels]; out may be x.
  void operator()(Context& ctx, const ConstTensor& x, const Tensor& out) const {
    group_norm(ctx, x, params_, out);
  }

 private:
  GroupNormParams params_;
};

}  // namespace flux
