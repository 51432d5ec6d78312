#pragma once

#include <span>
#include <vector>

#include "layers/linear.h"

namespace flux {

/// The conditioning of one image: SiLU of its embedded time, guidance and pooled text, the same for
/// all blocks. Belongs to one context.
struct Conditioning {
  ConstTensor rows;  // [steps, features], T
  int64_t step = 0;  // the row in use
  /// Where defined, every Modulation keeps its result for all steps here, under its index, so that
  /// its weights are read once an image: [steps, chunks, features], f32, each.
  std::vector<ConstTensor>* kept = nullptr;
  Adapters adapters = {};  // of the image

  /// [1, features]
  ConstTensor row() const { return rows.slice(0, step, step + 1); }
};

/// One chunk each of a modulation's result: x is normed, then * (1 + scale) + shift, and a residual
/// branch is multiplied by the gate. Each [features], f32.
struct Modulated {
  ConstTensor shift;
  ConstTensor scale;
  ConstTensor gate;

  /// Chunks first, first + 1 and first + 2 of `chunks`, [chunks, features].
  static Modulated of(const ConstTensor& chunks, int64_t first) {
    return {chunks[first], chunks[first + 1], chunks[first + 2]};
  }
};

/// The adaptive layer norm parameters of FLUX: a linear of the conditioning whose output is cut
/// into equal chunks. Source: Peebles and Xie, Scalable Diffusion Models with Transformers (2023);
/// diffusers' AdaLayerNormZero, AdaLayerNormZeroSingle and AdaLayerNormContinuous.
class Modulation {
 public:
  Modulation() = default;
  /// Takes weight ([chunks x features, features]) and bias. `index`: the modulation's place in
  /// Conditioning::kept, its own in the model.
  Modulation(const Loader& load, int64_t features, int64_t chunks, size_t index);

  /// Returns [chunks, features], f32, of the step in use of each conditioning: a part of what is
  /// kept, or in the workspace of `ctx`, where all are computed at once.
  std::vector<ConstTensor> operator()(Context& ctx,
                                      std::span<const Conditioning* const> conditionings) const;
  int64_t bytes() const { return linear_.bytes(); }

 private:
  /// [chunks, features] of the step in use from what is kept; computes it where it is missing.
  ConstTensor kept(Context& ctx, const Conditioning& conditioning) const;
  /// rows: [n, features], T; out: [n, chunks, features], f32.
  void compute(Context& ctx, const ConstTensor& rows, Adapters adapters, const Tensor& out) const;

  Linear linear_;
  int64_t features_ = 0;
  int64_t chunks_ = 0;
  size_t index_ = 0;
};

}  // namespace flux
