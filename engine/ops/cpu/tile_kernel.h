#pragma once

#include <cstdint>
#include <memory>

#include "tensor/dtype.h"

/// Products and convolutions of small fixed tiles, each run by one thread. The callers cut the work
/// into tiles and share them out, so that results do not depend on the number of threads.
namespace flux::cpu {

/// sums[rows, columns] = x[rows, depth] W[depth, columns]; all row-major and contiguous.
struct ProductShape {
  DType dtype = DType::kF32;  // kF32 or kBF16, of x and W; sums are f32
  int64_t rows = 0;
  int64_t depth = 0;
  int64_t columns = 0;

  friend bool operator==(const ProductShape&, const ProductShape&) = default;
};

/// sums[height, width, out] from x[height + kernel - 1, width + kernel - 1, in] (its border
/// included), channels last.
struct ConvolutionShape {
  DType dtype = DType::kF32;
  int64_t height = 0;
  int64_t width = 0;
  int64_t in = 0;
  int64_t out = 0;
  int64_t kernel = 0;

  friend bool operator==(const ConvolutionShape&, const ConvolutionShape&) = default;
};

/// A compiled tile of work. Immutable; any number of threads may run it at a time.
class TileKernel {
 public:
  virtual ~TileKernel() = default;
  /// Memory that each run needs for itself, to be aligned to 64 bytes.
  virtual int64_t scratch_bytes() const = 0;
  virtual void run(const void* x, const void* weights, float* sums, void* scratch) const = 0;
};

/// Brings weights into the layout that the kernels of a shape take.
class WeightPacker {
 public:
  virtual ~WeightPacker() = default;
  /// Bytes of the packed weights, padding included.
  virtual int64_t packed_bytes() const = 0;
  /// plain and packed both have the shape's dtype.
  virtual void pack(const void* plain, void* packed) const = 0;
};

}  // namespace flux::cpu
