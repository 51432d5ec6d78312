#pragma once

#include "layers/linear.h"

namespace flux {

/// The adaptive layer norm parameters of FLUX: SiLU of the conditioning, then a linear whose output
/// is cut into equal chunks. Source: Peebles and Xie, Scalable Diffusion Models with Transformers
/// (2023); diffusers' AdaLayerNormZero, AdaLayerNormZeroSingle and AdaLayerNormContinuous.
class Modulation {
 public:
  Modulation() = default;
  /// Takes `scope`.weight ([chunks x features, features]) and `scope`.bias.
  Modulation(Context& ctx, const WeightScope& scope, int64_t features, int64_t chunks, DType dtype);

  /// conditioning: [1, features], T, with SiLU already applied (it is the same for all blocks).
  /// Returns [chunks, features], f32, in the workspace of `ctx`.
  Tensor operator()(Context& ctx, const Tensor& conditioning) const;
  int64_t bytes() const { return linear_.bytes(); }

 private:
  Linear linear_;
  int64_t features_ = 0;
  int64_t chunks_ = 0;
};

}  // namespace flux
