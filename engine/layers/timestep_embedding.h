#pragma once

#include "layers/linear.h"

namespace flux {

/// diffusers' TimestepEmbedding and PixArtAlphaTextProjection: linear, SiLU, linear.
class TwoLayerEmbedding {
 public:
  TwoLayerEmbedding() = default;
  TwoLayerEmbedding(const Loader& load, int64_t in, int64_t out);

  /// x: [1, in], out: [1, out]. `residual` ([1, out]), when defined, is added; it may be out.
  void operator()(Context& ctx, const ConstTensor& x, const Tensor& out,
                  const ConstTensor& residual = {}, Adapters adapters = {}) const;
  int64_t bytes() const { return linear_1_.bytes() + linear_2_.bytes(); }

 private:
  Linear linear_1_;
  Linear linear_2_;
};

/// Number of sinusoidal channels that FLUX embeds its timestep and guidance with.
inline constexpr int64_t kTimestepChannels = 256;

/// diffusers' Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0) of `value` (0..1000
/// scale): [1, 256], computed in f32, rounded to `dtype`; in the workspace of `ctx`.
Tensor embed_timestep(Context& ctx, float value, DType dtype);

}  // namespace flux
