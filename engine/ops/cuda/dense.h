#pragma once

#include <vector>

#include "ops/cuda/kernels/kernels.h"
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

/// How they are decoded into `out`, [rows, depth], T, contiguous.
DecodeRows decoding_of(const EncodedRows& rows, const Tensor& out);

/// Weights for products of e4m3.
struct E4M3Weights {
  Tensor numbers;  // u8 [columns, depth]
  Tensor scales;   // f32 [columns]
  Tensor bounds;   // f32 [2]: the largest norm of a row, the largest size of a bias
};

/// Weights of a product in device memory.
class DenseWeights final : public PackedWeights {
 public:
  Tensor weight;  // [columns, depth], T; undefined where they are encoded or e4m3
  /// Encoded weights, stacked: decoded into T for each product.
  std::vector<EncodedRows> encoded;
  E4M3Weights e4m3;
  int64_t columns = 0;
  int64_t depth = 0;
  ConstTensor bias;          // [columns], f32; undefined without one
  ConstTensor rounded_bias;  // the same in T, for cuBLASLt

  int64_t bytes() const override {
    int64_t total = bias.defined() ? bias.bytes() + rounded_bias.bytes() : 0;
    if (weight.defined()) total += weight.bytes();
    for (const EncodedRows& rows : encoded) total += rows.bytes.bytes();
    if (e4m3.numbers.defined()) total += e4m3.numbers.bytes() + e4m3.scales.bytes();
    return total;
  }
  bool takes_e4m3() const override { return e4m3.numbers.defined(); }
};

/// Sets both forms of a bias from host values, one for each of `weights` (undefined: zeros). Does
/// nothing when there are none.
void set_bias(Context& ctx, std::span<const StoredTensor> weights,
              std::span<const ConstTensor> biases, DType dtype, DenseWeights& packed);

/// What is done with the sums of a product before they are stored.
StoreRows store_args(Context& ctx, const DenseWeights& weights, const Epilogue& epilogue,
                     const Tensor& out);
/// The same and the rows for hopper_linear(), without weights and scales.
HopperLinear::Segment hopper_segment(Context& ctx, const ConstTensor& x,
                                     const DenseWeights& weights, const Epilogue& epilogue,
                                     const Tensor& out);
/// The heads to be normalised, if there are any.
void set_heads(const std::optional<HeadNorm>& norm, HopperLinear& linear);

struct PartChanges;

/// One of several independent products.
struct DenseSegment {
  ConstTensor x;
  const DenseWeights* weights;
  Epilogue epilogue;
  Tensor out;
  const PartChanges* changes = nullptr;  // null: none; see weight_terms.h
};

/// x W^T + b and the epilogue of every segment; x: [rows, depth], out: [rows, columns]. The
/// segments are alike, as ops.h says of the parts of linear().
void dense(Context& ctx, State& state, std::span<const DenseSegment> segments);

}  // namespace flux::cuda
