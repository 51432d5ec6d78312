#pragma once

#include <vector>

#include "ops/cuda/dense.h"

/// Changes of a linear's weights, WeightChange: everything of them but the last sums, which are
/// those of the product.
namespace flux::cuda {

/// The up half of a change of low rank, or with rank 1 and f32 the values of a change of a bias.
class PackedUp final : public PackedWeights {
 public:
  int64_t rank = 0;
  Tensor memory;      // [columns, rank, rounded up to 8], T, zero beyond the rank
  Tensor gains;       // [columns], f32; may be undefined
  float norm = 0;     // the largest of a row
  float largest = 0;  // size of a value
  float largest_gain = 0;

  int64_t bytes() const override { return memory.bytes() + (gains.defined() ? gains.bytes() : 0); }
};

std::shared_ptr<const PackedWeights> pack_up_half(Context& ctx, const ConstTensor& up,
                                                  const ConstTensor& gains, DType dtype);

/// A change of low rank whose x is multiplied with scale * down^T.
struct LowRankTerm {
  /// [rows, columns of PackedUp::memory], T; those beyond the rank are zero, or undefined where
  /// hopper_linear() cannot read the part.
  Tensor x;
  const PackedUp* up = nullptr;
  int64_t begin = 0;
};

/// The changes that a part's product has, in the workspace. Those of scale 0 are none.
struct PartChanges {
  std::vector<LowRankTerm> low_rank;
  std::vector<HopperLinear::Term> terms;  // the same for hopper_linear()
  Tensor bias;               // [columns], f32: in place of that of the weights; may be undefined
  Tensor factors;            // [columns], f32, of the sums; may be undefined
  Tensor added;              // [rows, columns], T, to the sums; may be undefined
  Tensor added_scale;        // [1], f32, of `added`, where the part's result is e4m3
  float largest_factor = 1;  // a bound
  float more_bias = 0;       // a bound of what changes of the bias add to the largest

  bool any() const {
    return !terms.empty() || bias.defined() || factors.defined() || added.defined();
  }
};

/// Those of each part, in order. What they refer to must outlive them.
std::vector<PartChanges> prepare_changes(Context& ctx, State& state,
                                         std::span<const LinearPart> parts);

/// Sets a segment's changes for hopper_linear().
void set_changes(const PartChanges& changes, HopperLinear::Segment& segment);

/// out[i] = value
Tensor filled(Context& ctx, State& state, int64_t columns, float value);

}  // namespace flux::cuda
