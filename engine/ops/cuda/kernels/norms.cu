#include <algorithm>
#include <limits>

#include "ops/cuda/kernels/device.cuh"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/kernels/launch.cuh"

namespace flux::cuda {
namespace {

constexpr int kNormThreads = 128;

/// Matrices, and which blocks have rows of each.
struct NormParts {
  NormRows parts[kMaxNormParts];
  unsigned first_block[kMaxNormParts + 1];
};

/// A block's matrix, and its place among the blocks that have rows of it.
struct NormBlock {
  const NormRows& args;
  unsigned index, count;

  __device__ static NormBlock of(const NormParts& all) {
    int part = 0;
    while (blockIdx.x >= all.first_block[part + 1]) ++part;
    const unsigned first = all.first_block[part];
    return {all.parts[part], blockIdx.x - first, all.first_block[part + 1] - first};
  }
};

/// What a norm does to one column, as y = x * factor + offset.
struct Column {
  float factor;
  float offset;
};

__device__ Column column_of(const NormRows& args, int column) {
  const float weight = args.weight ? args.weight[column] : 1.0f;
  const float bias = args.bias ? args.bias[column] : 0.0f;
  if (!args.scale) return {weight, bias};
  const float scale = 1.0f + args.scale[column];
  return {weight * scale, bias * scale + args.shift[column]};
}

/// Rows of exactly kVectors vectors a thread; a block keeps the columns' parameters in registers
/// and takes every so manyth row.
template <typename T, int N, int kVectors>
__global__ void __launch_bounds__(kNormThreads)
    held_norm_kernel(const __grid_constant__ NormParts all) {
  begin_kernel();
  const NormBlock block = NormBlock::of(all);
  const NormRows& args = block.args;
  __shared__ float shared[32];
  Column columns[kVectors][N];
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      columns[i][j] = column_of(args, (threadIdx.x + i * kNormThreads) * N + j);
    }
  }
  const auto n = static_cast<float>(args.n);
  for (int64_t row = block.index; row < args.rows; row += block.count) {
    const auto* x = static_cast<const T*>(args.x) + row * args.x_stride;
    auto* out = static_cast<T*>(args.out) + row * args.out_stride;
    Pack<T, N> held[kVectors];
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      held[i] = Pack<T, N>::load(x + (threadIdx.x + i * kNormThreads) * N);
    }
#pragma unroll
    for (int i = 0; i < kVectors * N; ++i) sum += to_float(held[i / N].values[i % N]);
    const float mean = args.centred ? block_reduce(sum, shared) / n : 0.0f;
    float square = 0.0f;
#pragma unroll
    for (int i = 0; i < kVectors * N; ++i) {
      const float distance = to_float(held[i / N].values[i % N]) - mean;
      square += distance * distance;
    }
    const float factor = rsqrtf(block_reduce(square, shared) / n + args.eps);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const float y = (to_float(held[i].values[j]) - mean) * factor;
        held[i].values[j] = from_float<T>(y * columns[i][j].factor + columns[i][j].offset);
      }
      held[i].store(out + (threadIdx.x + i * kNormThreads) * N);
    }
  }
}

/// Rows of any length, read three times: one block a row.
template <typename T, int N>
__global__ void __launch_bounds__(kNormThreads) norm_kernel(const __grid_constant__ NormParts all) {
  begin_kernel();
  __shared__ float shared[32];
  const NormBlock block = NormBlock::of(all);
  const NormRows& args = block.args;
  const auto* x = static_cast<const T*>(args.x) + block.index * args.x_stride;
  auto* out = static_cast<T*>(args.out) + block.index * args.out_stride;
  const int vectors = static_cast<int>(args.n / N);
  const auto n = static_cast<float>(args.n);
  const auto sum = [&](auto&& f) {
    float total = 0.0f;
    for (int at = threadIdx.x; at < vectors; at += kNormThreads) {
      const auto pack = Pack<T, N>::load(x + at * N);
#pragma unroll
      for (int j = 0; j < N; ++j) total += f(to_float(pack.values[j]));
    }
    return block_reduce(total, shared);
  };
  float mean = 0.0f;
  if (args.centred) mean = sum([](float value) { return value; }) / n;
  const float square = sum([mean](float value) { return (value - mean) * (value - mean); }) / n;
  const float factor = rsqrtf(square + args.eps);
  for (int at = threadIdx.x; at < vectors; at += kNormThreads) {
    auto pack = Pack<T, N>::load(x + at * N);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const Column column = column_of(args, at * N + j);
      const float y = (to_float(pack.values[j]) - mean) * factor;
      pack.values[j] = from_float<T>(y * column.factor + column.offset);
    }
    pack.store(out + at * N);
  }
}

constexpr int kRopeWarps = 8;

constexpr int kRopeHeads = 6;  // of a token that a warp takes one after the other

/// Over a warp, whose lanes have the pairs of 64 columns: in the order in which hopper_linear.cu
/// adds them, where a thread has four pairs, and those 16 further on. It may have no more of a
/// head.
__device__ float sum_of_squares(float value) {
  for (const int lane : {1, 2, 16, 4, 8}) {
    value = __fadd_rn(value, __shfl_xor_sync(0xffffffffu, value, lane));
  }
  return value;
}

/// One warp a token and some heads; lane l has the pairs l, l + 32, ... kPairs is an upper bound.
template <typename T, int kPairs, int kVector>
__global__ void __launch_bounds__(kRopeWarps * 32) norm_rope_kernel(NormRope args) {
  begin_kernel();
  const int64_t turns = (args.heads + kRopeHeads - 1) / kRopeHeads;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kRopeWarps + threadIdx.x / 32;
  if (item >= args.tokens * turns) return;
  const int64_t token = item / turns;
  const int64_t first = item % turns * kRopeHeads;
  const int pairs = static_cast<int>(args.dim / 2);
  const int lane = threadIdx.x % 32;
  float cos[kPairs], sin[kPairs];
  float2 weight[kPairs];
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int pair = min(lane + i * 32, pairs - 1);
    cos[i] = args.cos[token * pairs + pair];
    sin[i] = args.sin[token * pairs + pair];
    weight[i] = make_float2(args.weight[2 * pair], args.weight[2 * pair + 1]);
  }
  auto* x = static_cast<T*>(args.x) + token * args.token_stride + first * args.head_stride;
  const int64_t count = min(args.heads - first, static_cast<int64_t>(kRopeHeads));
#pragma unroll 2
  for (int64_t head = 0; head < count; ++head, x += args.head_stride) {
    float values[kPairs][2];
    float squares[kPairs] = {};
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const int pair = lane + i * 32;
      if (pair >= pairs) continue;
#pragma unroll
      for (int j = 0; j < 2; j += kVector) {
        const auto part = Pack<T, kVector>::load(x + 2 * pair + j);
#pragma unroll
        for (int k = 0; k < kVector; ++k) values[i][j + k] = to_float(part.values[k]);
      }
      squares[i] = squares_of(make_float2(values[i][0], values[i][1]));
    }
    float total = sum_of_squares(squares[0]);
#pragma unroll
    for (int i = 1; i < kPairs; ++i) total = __fadd_rn(total, sum_of_squares(squares[i]));
    const float factor = norm_factor(total, static_cast<float>(args.dim), args.eps);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const int pair = lane + i * 32;
      if (pair >= pairs) continue;
      const float2 done = norm_and_rotate(make_float2(values[i][0], values[i][1]), factor,
                                          weight[i], cos[i], sin[i]);
      const T rotated[2] = {from_float<T>(done.x), from_float<T>(done.y)};
#pragma unroll
      for (int j = 0; j < 2; j += kVector) {
        Pack<T, kVector> part;
#pragma unroll
        for (int k = 0; k < kVector; ++k) part.values[k] = rotated[j + k];
        part.store(x + 2 * pair + j);
      }
    }
  }
}

__global__ void rope_angles_kernel(RopeAngles args) {
  begin_kernel();
  const int64_t item = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (item >= args.tokens * args.pairs) return;
  const int64_t token = item / args.pairs;
  int64_t pair = item % args.pairs;
  int axis = 0;
  while (pair >= args.dims[axis] / 2) pair -= args.dims[axis++] / 2;
  const double exponent = static_cast<double>(2 * pair) / static_cast<double>(args.dims[axis]);
  const double frequency = 1.0 / pow(kRopeTheta, exponent);
  const double angle = static_cast<double>(args.positions[token * args.axes + axis]) * frequency;
  args.cos[item] = static_cast<float>(cos(angle));
  args.sin[item] = static_cast<float>(sin(angle));
}

/// Shares `most` blocks out, none of them without a row. Returns how many there are.
unsigned share_out(std::span<const NormRows> parts, int64_t most, NormParts& all) {
  int64_t rows = 0;
  for (const NormRows& part : parts) rows += part.rows;
  const int64_t blocks = std::min(rows, most);
  unsigned next = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    all.parts[i] = parts[i];
    all.first_block[i] = next;
    next += static_cast<unsigned>((parts[i].rows * blocks + rows - 1) / rows);
  }
  all.first_block[parts.size()] = next;
  return next;
}

template <typename T, int N>
void run_norm(std::span<const NormRows> parts, cudaStream_t stream) {
  constexpr int64_t kBlocks = 132 * 5;  // that run at a time on a large GPU
  NormParts all{};
  const auto run = [&](auto* kernel, int64_t most) {
    launch_kernel(kernel, {share_out(parts, most, all), kNormThreads, stream}, all);
  };
  if constexpr (N > 1) {
    const int64_t vectors = parts[0].n / N;
    if (vectors == 3 * kNormThreads) return run(held_norm_kernel<T, N, 3>, kBlocks);
    if (vectors == 4 * kNormThreads) return run(held_norm_kernel<T, N, 4>, kBlocks);
  }
  run(norm_kernel<T, N>, std::numeric_limits<int64_t>::max());
}

}  // namespace

void norm_rows(std::span<const NormRows> parts, DType dtype, cudaStream_t stream) {
  if (parts.empty()) return;
  dispatch(dtype, [&]<typename T>() {
    constexpr int kWidest = 16 / sizeof(T);
    const bool wide = std::all_of(parts.begin(), parts.end(), [](const NormRows& part) {
      return vector_width(kWidest, sizeof(T), part.x, part.out, part.n, part.x_stride,
                          part.out_stride) == kWidest;
    });
    wide ? run_norm<T, kWidest>(parts, stream) : run_norm<T, 1>(parts, stream);
  });
}

void norm_rope(const NormRope& args, DType dtype, cudaStream_t stream) {
  const int64_t items = args.tokens * ((args.heads + kRopeHeads - 1) / kRopeHeads);
  if (items == 0) return;
  dispatch(dtype, [&]<typename T>() {
    const unsigned blocks = blocks_for(items, kRopeWarps);
    const int width = vector_width(2, sizeof(T), args.x, args.token_stride, args.head_stride);
    if (args.dim <= 128 && width == 2) {
      launch_kernel(norm_rope_kernel<T, 2, 2>, {blocks, kRopeWarps * 32, stream}, args);
    } else {
      launch_kernel(norm_rope_kernel<T, kMaxRopeDim / 64, 1>, {blocks, kRopeWarps * 32, stream},
                    args);
    }
  });
}

void rope_angles(const RopeAngles& args, cudaStream_t stream) {
  const int64_t items = args.tokens * args.pairs;
  if (items == 0) return;
  launch_kernel(rope_angles_kernel, {blocks_for(items, 128), 128, stream}, args);
}

}  // namespace flux::cuda
