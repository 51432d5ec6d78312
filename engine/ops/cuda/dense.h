#pragma once

#include "ops/cuda/state.h"
#include "ops/ops.h"

namespace flux::cuda {

/// Weights of a product in device memory.
class DenseWeights final : public PackedWeights {
 public:
  Tensor weight;             // [columns, depth], T
  ConstTensor bias;          // [columns], f32; undefined without one
  ConstTensor rounded_bias;  // the same in T, for cuBLASLt

  int64_t bytes() const override {
    return weight.bytes() + (bias.defined() ? bias.bytes() + rounded_bias.bytes() : 0);
  }
};

/// Sets both forms of a bias from host values, one for each of `weights` (undefined: zeros). Does
/// nothing when there are none.
void set_bias(Context& ctx, std::span<const ConstTensor> weights,
              std::span<const ConstTensor> biases, DenseWeights& packed);

/// One of several independent products.
struct DenseSegment {
  ConstTensor x;
  const DenseWeights* weights;
  Epilogue epilogue;
  Tensor out;
};

/// x W^T + b and the epilogue of every segment; x: [rows, depth], out: [rows, columns]. The
/// segments are alike, as ops.h says of the parts of linear().
void dense(Context& ctx, State& state, std::span<const DenseSegment> segments);

}  // namespace flux::cuda
