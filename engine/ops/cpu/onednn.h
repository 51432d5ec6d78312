#pragma once

#include "ops/cpu/tile_kernel.h"

/// All that the engine uses of oneDNN: tiles of matrix products and of convolutions.
/// Failures are Error: kUnavailable when memory ran out, else kInternal.
namespace flux::cpu {

/// Compiles a kernel, which takes about a millisecond, or finds it in a process-wide cache.
std::shared_ptr<const TileKernel> tile_kernel(const ProductShape& shape);
std::shared_ptr<const TileKernel> tile_kernel(const ConvolutionShape& shape);

/// Plain weights are [columns, depth], as checkpoints have them. `rows` does not matter.
std::unique_ptr<WeightPacker> weight_packer(const ProductShape& shape);
/// Plain weights are [out, in, kernel, kernel].
std::unique_ptr<WeightPacker> weight_packer(const ConvolutionShape& shape);

/// How bf16 weights are computed with.
enum class Bf16Path {
  kNative,      // bf16 products, f32 sums
  kThroughF32,  // widened to f32, some columns at a time; for processors without bf16 products
};
/// The way for weights packed from now on: the processor's, unless set_bf16_path() chose.
Bf16Path bf16_path();
/// For tests and comparisons.
void set_bf16_path(Bf16Path path);

}  // namespace flux::cpu
