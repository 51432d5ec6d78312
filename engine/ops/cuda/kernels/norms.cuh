#pragma once

#include <algorithm>

#include "ops/cuda/kernels/device.cuh"
#include "ops/cuda/kernels/kernels.h"

/// What the kernels of norm_rows() share.
namespace flux::cuda {

/// Several matrices, and the blocks of the grid that normalise each: a contiguous range.
struct GridSplit {
  NormRows segments[kMaxNormSegments];
  unsigned first_block[kMaxNormSegments + 1];
};

/// A block's matrix, its index among the blocks of that matrix, and their number.
struct NormBlock {
  const NormRows& args;
  unsigned index, count;

  __device__ static NormBlock of(const GridSplit& grid) {
    int segment = 0;
    while (blockIdx.x >= grid.first_block[segment + 1]) ++segment;
    const unsigned first = grid.first_block[segment];
    return {grid.segments[segment], blockIdx.x - first, grid.first_block[segment + 1] - first};
  }
};

/// The weight, bias and modulation of a column, as y = x * factor + offset.
struct Column {
  float factor;
  float offset;
};

__device__ inline Column column_of(const NormRows& args, int column) {
  const float weight = args.weight ? args.weight[column] : 1.0f;
  const float bias = args.bias ? args.bias[column] : 0.0f;
  if (!args.scale) return {weight, bias};
  const float scale = 1.0f + args.scale[column];
  return {weight * scale, bias * scale + args.shift[column]};
}

/// Splits about `most` blocks among the segments in proportion to their rows, at least a row for
/// each block. Returns the number of blocks.
inline unsigned split_grid(std::span<const NormRows> segments, int64_t most, GridSplit& grid) {
  int64_t rows = 0;
  for (const NormRows& segment : segments) rows += segment.rows;
  const int64_t blocks = std::min(rows, most);
  unsigned next = 0;
  for (size_t i = 0; i < segments.size(); ++i) {
    grid.segments[i] = segments[i];
    grid.first_block[i] = next;
    next += static_cast<unsigned>((segments[i].rows * blocks + rows - 1) / rows);
  }
  grid.first_block[segments.size()] = next;
  return next;
}

/// norm_rows() whose results are e4m3.
cudaError_t encode_norm_rows(std::span<const NormRows> segments, DType dtype, const GpuTraits& gpu,
                             cudaStream_t stream);

}  // namespace flux::cuda
