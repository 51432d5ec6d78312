#pragma once

#include <map>
#include <span>
#include <vector>

#include "layers/linear.h"

namespace flux {

class Modulation;

/// What a model is modulated by at its steps, and, where `kept` is there, all modulations that were
/// made of it: each is made for all steps at once when its first one is asked for, so that its
/// weights are read once. Belongs to one context.
struct Conditioning {
  Tensor rows;  // [steps, features], T, with SiLU already applied (it is the same for all blocks)
  int64_t step = 0;                                     // the row in use
  std::map<const Modulation*, Tensor>* kept = nullptr;  // [steps, chunks, features], f32, each
};

/// The adaptive layer norm parameters of FLUX: SiLU of the conditioning, then a linear whose output
/// is cut into equal chunks. Source: Peebles and Xie, Scalable Diffusion Models with Transformers
/// (2023); diffusers' AdaLayerNormZero, AdaLayerNormZeroSingle and AdaLayerNormContinuous.
class Modulation {
 public:
  Modulation() = default;
  /// Takes `scope`.weight ([chunks x features, features]) and `scope`.bias.
  Modulation(Context& ctx, const WeightScope& scope, int64_t features, int64_t chunks, DType dtype);

  /// Returns [chunks, features], f32, of the step in use of each: kept, or in the workspace of
  /// `ctx`, where all are made at once.
  std::vector<Tensor> operator()(Context& ctx,
                                 std::span<const Conditioning* const> conditionings) const;
  int64_t bytes() const { return linear_.bytes(); }

 private:
  /// [chunks, features] of the step in use of what is kept, made where it is not there yet.
  Tensor kept(Context& ctx, const Conditioning& conditioning) const;
  /// rows: [n, features], T; out: [n, chunks, features], f32.
  void make(Context& ctx, const Tensor& rows, const Tensor& out) const;

  Linear linear_;
  int64_t features_ = 0;
  int64_t chunks_ = 0;
};

}  // namespace flux
