#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "tensor/dtype.h"

/// Kernels for changes of a linear's weights (adapters): all of them but the last sums, which
/// hopper_linear() does with its own. As in kernels.h.
namespace flux::cuda {

/// Products of rows with few columns: scale * x down^T, for changes of low rank. x is bf16 or e4m3,
/// down and the result are bf16. A row's bits depend on its own values and the depth alone.
struct DownProducts {
  /// Eight columns of a result, of which `rows` come from down and the others are zero.
  struct Slice {
    const void* down;  // [rows, depth], contiguous
    int rows;
    float scale;
  };
  static constexpr int kSlices = 8;
  struct Item {
    const void* x;  // [rows, depth]
    int64_t x_stride;
    int64_t rows;
    const float* x_scales;  // of e4m3: [rows], x_scales_stride apart
    int64_t x_scales_stride;
    void* out;  // [rows, 8 count]
    int64_t out_stride;
    Slice slices[kSlices];
    int count;
    unsigned first_block;  // not to be set
  };
  int64_t depth;  // a multiple of 8; rows of x and down are aligned to 8 elements
  bool e4m3;
  std::span<const Item> items;
};
inline constexpr size_t kMaxDownItems = 32;
cudaError_t down_products(const DownProducts& products, cudaStream_t stream);

/// Rows first, first + 1, ... of outer (x) inner, times rows of x: out[i, j] is the sum over c of
/// outer[(first + j) / width, c] * inner[i * columns + c, (first + j) % width].
struct KroneckerRows {
  const float* outer;  // [rows of outer, columns]
  int64_t columns;
  const void* inner;  // [rows x columns, width], T: x as rows of `columns` matrices, times inner
  int64_t width;
  int64_t first;
  int64_t rows;
  int64_t out_columns;
  void* out;  // T
  int64_t out_stride;
};
cudaError_t kronecker_rows(const KroneckerRows& args, DType dtype, cudaStream_t stream);

/// A vector: base, or where it is null a constant, with multiples of others added to ranges of it.
struct ColumnSums {
  struct Item {
    const float* values;
    int64_t stride;
    int64_t begin, end;  // where it is added
    float scale;
  };
  static constexpr int kItems = 8;
  const float* base;
  float constant;
  int64_t columns;
  Item items[kItems];
  int count;
  float* out;  // may be base
};
cudaError_t column_sums(const ColumnSums& args, cudaStream_t stream);

}  // namespace flux::cuda
