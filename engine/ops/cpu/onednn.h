#pragma once

#include <cstdint>
#include <memory>

#include "ops/cpu/tile_kernel.h"
#include "tensor/dtype.h"

/// The engine's only use of oneDNN: tiles of matrix products and of convolutions.
/// Failures throw Error: kUnavailable when memory ran out, else kInternal.
namespace flux::cpu {

/// sums[rows, columns] = x[rows, depth] W[depth, columns]; all row-major and contiguous. x and W
/// are bf16, sums f32.
struct ProductShape {
  int64_t rows = 0;
  int64_t depth = 0;
  int64_t columns = 0;

  friend bool operator==(const ProductShape&, const ProductShape&) = default;
};

/// Computes f32 sums[height, width, out] from x (its border included), channels last. A side of x
/// is (side - 1) x stride + kernel.
struct ConvolutionShape {
  DType dtype = DType::kF32;
  int64_t height = 0;
  int64_t width = 0;
  int64_t in = 0;
  int64_t out = 0;
  int64_t kernel = 0;
  int64_t stride = 1;

  friend bool operator==(const ConvolutionShape&, const ConvolutionShape&) = default;
};

/// Compiles a kernel, which takes about a millisecond, or finds it in a process-wide cache.
std::shared_ptr<const TileKernel> tile_kernel(const ProductShape& shape);
std::shared_ptr<const TileKernel> tile_kernel(const ConvolutionShape& shape);

/// Packs weights into the layout that the kernels of a shape take.
class WeightPacker {
 public:
  virtual ~WeightPacker() = default;
  /// Bytes of the packed weights, padding included.
  virtual int64_t packed_bytes() const = 0;
  /// Plain and packed weights both have the dtype of x.
  virtual void pack(const void* plain, void* packed) const = 0;
};

/// Plain weights are [columns, depth], as checkpoints have them. `rows` does not matter.
std::unique_ptr<WeightPacker> weight_packer(const ProductShape& shape);
/// Plain weights are [out, in, kernel, kernel].
std::unique_ptr<WeightPacker> weight_packer(const ConvolutionShape& shape);

/// The arithmetic for bf16 weights.
enum class Bf16Path {
  kNative,      // bf16 products, f32 sums
  kThroughF32,  // widened to f32, some at a time; for processors without bf16 products
};
/// The path for weights packed from now on: the processor's, unless set_bf16_path() chose.
Bf16Path bf16_path();
/// Chooses the path, for tests and comparisons.
void set_bf16_path(Bf16Path path);

}  // namespace flux::cpu
