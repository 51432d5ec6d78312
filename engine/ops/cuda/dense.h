#pragma once

#include <vector>

#include "ops/cuda/state.h"
#include "ops/ops.h"

namespace flux::cuda {

/// Rows of a weight that stay encoded in device memory.
struct EncodedRows {
  Encoding encoding = Encoding::kPlain;
  int64_t rows = 0;
  Tensor bytes;        // u8 [rows, bytes of a row]; plain: [rows, depth], T
  ConstTensor scales;  // f32 [1] or [rows]; may be undefined
};

/// Weights of a product in device memory.
class DenseWeights final : public PackedWeights {
 public:
  Tensor weight;  // [columns, depth], T; undefined where they are encoded
  /// Encoded weights, stacked: decoded into T for each product.
  std::vector<EncodedRows> encoded;
  int64_t columns = 0;
  int64_t depth = 0;
  ConstTensor bias;          // [columns], f32; undefined without one
  ConstTensor rounded_bias;  // the same in T, for cuBLASLt

  int64_t bytes() const override {
    int64_t total = bias.defined() ? bias.bytes() + rounded_bias.bytes() : 0;
    if (weight.defined()) total += weight.bytes();
    for (const EncodedRows& rows : encoded) total += rows.bytes.bytes();
    return total;
  }
};

/// Sets both forms of a bias from host values, one for each of `weights` (undefined: zeros). Does
/// nothing when there are none.
void set_bias(Context& ctx, std::span<const StoredTensor> weights,
              std::span<const ConstTensor> biases, DType dtype, DenseWeights& packed);

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
