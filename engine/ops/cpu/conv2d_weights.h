#pragma once

#include <algorithm>
#include <vector>

#include "ops/cpu/kernels/kernels.h"
#include "ops/cpu/tile_kernel.h"
#include "ops/ops.h"
#include "support/integer.h"

/// The weights of a convolution on the CPU and the two ways of computing with them.
namespace flux::cpu {

/// Weights of a convolution, in chunks of output channels. A tile is tile_height x kConvTileWidth
/// results of one chunk.
class PackedConv2d : public PackedWeights {
 public:
  static constexpr int64_t kChunkChannels = 128;

  int64_t in = 0;
  int64_t out = 0;
  int64_t kernel = 0;
  int64_t stride = 1;
  int64_t tile_height = 0;
  DType stored = DType::kF32;
  DType compute = DType::kF32;  // dtype of the tiles' inputs
  Tensor memory;                // holds the weights
  Tensor bias;                  // [out], f32

  int64_t bytes() const override { return memory.bytes() + bias.bytes(); }
  /// The side of the input, its border included, that `side` results read.
  int64_t input_side(int64_t side) const { return (side - 1) * stride + kernel; }
  int64_t chunks() const { return ceil_div(out, kChunkChannels); }
  int64_t width(int64_t i) const { return std::min(kChunkChannels, out - i * kChunkChannels); }

  /// The kernel for a tile of `channels` output channels.
  virtual std::shared_ptr<const TileKernel> tile(int64_t channels) const = 0;
  /// Each chunk's weights in the form its tiles take: as they are stored, or in the workspace.
  virtual std::vector<const void*> expand(Context& ctx) const = 0;
};

/// weight: [out, in, k, k] of any float dtype.
std::shared_ptr<PackedConv2d> pack_direct_conv2d(Context& ctx, const ConstTensor& weight,
                                                 DType dtype, ConvSize size);

/// 3x3 kernels by Winograd's minimal filtering, in f32 also for bf16: a quarter of the products of
/// a direct convolution, fewer where the input is upsampled. Sums are off by some 2e-6 of their
/// size. Kernels are stored untransformed and transformed in each call, which needs 4 times the
/// memory of their f32 values. Returns null for a shape that the scheme does not suit.
std::shared_ptr<PackedConv2d> pack_winograd_conv2d(Context& ctx, const ConstTensor& weight,
                                                   DType dtype, ConvSize size);

}  // namespace flux::cpu
