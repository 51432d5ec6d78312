#pragma once

#include <cstdint>
#include <string_view>

namespace flux::cpu {

/// Computes a tile of a product or a convolution on one thread. It is immutable; any number of
/// threads may run it at a time.
class TileKernel {
 public:
  virtual ~TileKernel() = default;
  /// Scratch memory of each run, which must be aligned to 64 bytes.
  virtual int64_t scratch_bytes() const = 0;
  /// Kernels of oneDNN with one name add up in the same order, whatever their number of rows.
  virtual std::string_view implementation() const { return {}; }
  virtual void run(const void* x, const void* weights, float* sums, void* scratch) const = 0;
};

}  // namespace flux::cpu
