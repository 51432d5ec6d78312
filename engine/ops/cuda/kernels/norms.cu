#include <algorithm>
#include <limits>

#include "ops/cuda/kernels/device.cuh"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/kernels/launch.cuh"
#include "ops/cuda/kernels/norms.cuh"

namespace flux::cuda {
namespace {

constexpr int kNormThreads = 128;

/// For rows of exactly kVectors vectors a thread: a block keeps the columns' parameters in
/// registers and strides over the rows.
template <typename T, int N, int kVectors>
__global__ void __launch_bounds__(kNormThreads)
    held_norm_kernel(const __grid_constant__ GridSplit grid) {
  begin_kernel();
  const NormBlock block = NormBlock::of(grid);
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

/// For rows of any length, which are read three times: a block takes one row.
template <typename T, int N>
__global__ void __launch_bounds__(kNormThreads)
    norm_kernel(const __grid_constant__ GridSplit grid) {
  begin_kernel();
  __shared__ float shared[32];
  const NormBlock block = NormBlock::of(grid);
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

constexpr int kRopeHeads = 6;  // heads of a token that a warp takes one after the other

/// The sum over a warp whose lanes have the pairs of 64 columns. The order of additions is that of
/// hopper_linear.cu, where a thread has four neighbouring pairs and the four that are 16 pairs
/// further on, and where half a head may be all that a block has.
__device__ float sum_of_squares(float value) {
  for (const int lane : {1, 2, 16, 4, 8}) {
    value = __fadd_rn(value, __shfl_xor_sync(0xffffffffu, value, lane));
  }
  return value;
}

/// A warp takes kRopeHeads heads of a token; lane l has the pairs l, l + 32, ... of a head, at most
/// kPairs.
template <typename T, int kPairs, int kVector>
__global__ void __launch_bounds__(kRopeWarps * 32) norm_rope_kernel(NormRope args) {
  begin_kernel();
  const int64_t groups = (args.heads + kRopeHeads - 1) / kRopeHeads;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kRopeWarps + threadIdx.x / 32;
  if (item >= args.tokens * groups) return;
  const int64_t token = item / groups;
  const int64_t first = item % groups * kRopeHeads;
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
        const auto pack = Pack<T, kVector>::load(x + 2 * pair + j);
#pragma unroll
        for (int k = 0; k < kVector; ++k) values[i][j + k] = to_float(pack.values[k]);
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
        Pack<T, kVector> pack;
#pragma unroll
        for (int k = 0; k < kVector; ++k) pack.values[k] = rotated[j + k];
        pack.store(x + 2 * pair + j);
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
  const double frequency = 1.0 / pow(args.theta, exponent);
  const double angle = static_cast<double>(args.positions[token * args.axes + axis]) * frequency;
  args.cos[item] = static_cast<float>(cos(angle));
  args.sin[item] = static_cast<float>(sin(angle));
}

template <typename T, int N>
cudaError_t run_norm(std::span<const NormRows> segments, const GpuTraits& gpu,
                     cudaStream_t stream) {
  GridSplit grid{};
  const auto run = [&](auto* kernel, int64_t most) {
    return launch_kernel(kernel, {split_grid(segments, most, grid), kNormThreads, stream}, grid);
  };
  if constexpr (N > 1) {
    const int64_t vectors = segments[0].n / N;
    if (vectors == 3 * kNormThreads) return run(held_norm_kernel<T, N, 3>, norm_blocks(gpu));
    if (vectors == 4 * kNormThreads) return run(held_norm_kernel<T, N, 4>, norm_blocks(gpu));
  }
  return run(norm_kernel<T, N>, std::numeric_limits<int64_t>::max());
}

}  // namespace

cudaError_t norm_rows(std::span<const NormRows> segments, DType dtype, const GpuTraits& gpu,
                      cudaStream_t stream) {
  if (segments.empty()) return cudaSuccess;
  if (segments[0].scales != nullptr) return encode_norm_rows(segments, dtype, gpu, stream);
  return dispatch(dtype, [&]<typename T>() {
    constexpr int kWidest = 16 / sizeof(T);
    const bool wide = std::all_of(segments.begin(), segments.end(), [](const NormRows& segment) {
      return vector_width(kWidest, sizeof(T), segment.x, segment.out, segment.n, segment.x_stride,
                          segment.out_stride) == kWidest;
    });
    return wide ? run_norm<T, kWidest>(segments, gpu, stream)
                : run_norm<T, 1>(segments, gpu, stream);
  });
}

cudaError_t norm_rope(const NormRope& args, DType dtype, cudaStream_t stream) {
  const int64_t items = args.tokens * ((args.heads + kRopeHeads - 1) / kRopeHeads);
  if (items == 0) return cudaSuccess;
  return dispatch(dtype, [&]<typename T>() {
    const unsigned blocks = blocks_for(items, kRopeWarps);
    const int width = vector_width(2, sizeof(T), args.x, args.token_stride, args.head_stride);
    if (args.dim <= 128 && width == 2) {
      return launch_kernel(norm_rope_kernel<T, 2, 2>, {blocks, kRopeWarps * 32, stream}, args);
    }
    return launch_kernel(norm_rope_kernel<T, kMaxRopeDim / 64, 1>,
                         {blocks, kRopeWarps * 32, stream}, args);
  });
}

cudaError_t rope_angles(const RopeAngles& args, cudaStream_t stream) {
  const int64_t items = args.tokens * args.pairs;
  if (items == 0) return cudaSuccess;
  return launch_kernel(rope_angles_kernel, {blocks_for(items, 128), 128, stream}, args);
}

}  // namespace flux::cuda
