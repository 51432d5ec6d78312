#include "ops/cuda/kernels/device.cuh"
#include "ops/cuda/kernels/kernels.h"

namespace flux::cuda {
namespace {

constexpr int kNormThreads = 128;
constexpr int kHeld = 4;  // vectors of a row that a thread keeps in registers

/// One block a row. Rows of up to kHeld vectors a thread are read once, longer ones again.
template <typename T, int N>
__global__ void __launch_bounds__(kNormThreads) norm_kernel(NormRows args) {
  __shared__ float shared[32];
  const auto* x = static_cast<const T*>(args.x) + blockIdx.x * args.x_stride;
  auto* out = static_cast<T*>(args.out) + blockIdx.x * args.out_stride;
  const int vectors = static_cast<int>(args.n / N);
  Pack<T, N> held[kHeld];
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int at = threadIdx.x + i * kNormThreads;
    if (at < vectors) held[i] = Pack<T, N>::load(x + at * N);
  }
  const auto sum = [&](auto&& f) {
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (static_cast<int>(threadIdx.x) + i * kNormThreads < vectors) {
#pragma unroll
        for (int j = 0; j < N; ++j) total += f(to_float(held[i].values[j]));
      }
    }
    for (int at = threadIdx.x + kHeld * kNormThreads; at < vectors; at += kNormThreads) {
      const auto pack = Pack<T, N>::load(x + at * N);
      for (int j = 0; j < N; ++j) total += f(to_float(pack.values[j]));
    }
    return block_reduce(total, shared);
  };
  const auto n = static_cast<float>(args.n);
  float mean = 0.0f;
  if (args.centred) mean = sum([](float value) { return value; }) / n;
  const float square = sum([mean](float value) { return (value - mean) * (value - mean); }) / n;
  const float factor = rsqrtf(square + args.eps);
  const auto store = [&](int at, const Pack<T, N>& pack) {
    Pack<T, N> result;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const int column = at * N + j;
      float y = (to_float(pack.values[j]) - mean) * factor;
      if (args.weight) y *= args.weight[column];
      if (args.bias) y += args.bias[column];
      if (args.scale) y = y * (1.0f + args.scale[column]) + args.shift[column];
      result.values[j] = from_float<T>(y);
    }
    result.store(out + at * N);
  };
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int at = threadIdx.x + i * kNormThreads;
    if (at < vectors) store(at, held[i]);
  }
  for (int at = threadIdx.x + kHeld * kNormThreads; at < vectors; at += kNormThreads) {
    store(at, Pack<T, N>::load(x + at * N));
  }
}

constexpr int kRopeWarps = 8;

/// One warp a token and head; lane l has the pairs l, l + 32, ... kPairs is an upper bound.
template <typename T, int kPairs, int kVector>
__global__ void __launch_bounds__(kRopeWarps * 32) norm_rope_kernel(NormRope args) {
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kRopeWarps + threadIdx.x / 32;
  if (item >= args.tokens * args.heads) return;
  const int64_t token = item / args.heads;
  auto* x =
      static_cast<T*>(args.x) + token * args.token_stride + item % args.heads * args.head_stride;
  const int pairs = static_cast<int>(args.dim / 2);
  const int lane = threadIdx.x % 32;
  Pack<T, 2> held[kPairs];
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int pair = lane + i * 32;
    if (pair >= pairs) continue;
#pragma unroll
    for (int j = 0; j < 2; j += kVector) {
      const auto part = Pack<T, kVector>::load(x + 2 * pair + j);
#pragma unroll
      for (int k = 0; k < kVector; ++k) held[i].values[j + k] = part.values[k];
    }
    const float a = to_float(held[i].values[0]);
    const float b = to_float(held[i].values[1]);
    squares += a * a + b * b;
  }
  const float factor = rsqrtf(warp_sum(squares) / static_cast<float>(args.dim) + args.eps);
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int pair = lane + i * 32;
    if (pair >= pairs) continue;
    const float cos = args.cos[token * pairs + pair];
    const float sin = args.sin[token * pairs + pair];
    const float a = to_float(held[i].values[0]) * factor * args.weight[2 * pair];
    const float b = to_float(held[i].values[1]) * factor * args.weight[2 * pair + 1];
    held[i].values[0] = from_float<T>(a * cos - b * sin);
    held[i].values[1] = from_float<T>(b * cos + a * sin);
#pragma unroll
    for (int j = 0; j < 2; j += kVector) {
      Pack<T, kVector> part;
#pragma unroll
      for (int k = 0; k < kVector; ++k) part.values[k] = held[i].values[j + k];
      part.store(x + 2 * pair + j);
    }
  }
}

__global__ void rope_angles_kernel(RopeAngles args) {
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

}  // namespace

void norm_rows(const NormRows& args, DType dtype, cudaStream_t stream) {
  if (args.rows == 0) return;
  dispatch(dtype, [&]<typename T>() {
    const int width = vector_width(16 / sizeof(T), sizeof(T), args.x, args.out, args.n,
                                   args.x_stride, args.out_stride);
    const dim3 grid(static_cast<unsigned>(args.rows));
    if (width == 16 / sizeof(T)) {
      norm_kernel<T, 16 / sizeof(T)><<<grid, kNormThreads, 0, stream>>>(args);
    } else {
      norm_kernel<T, 1><<<grid, kNormThreads, 0, stream>>>(args);
    }
  });
}

void norm_rope(const NormRope& args, DType dtype, cudaStream_t stream) {
  const int64_t items = args.tokens * args.heads;
  if (items == 0) return;
  dispatch(dtype, [&]<typename T>() {
    const unsigned blocks = blocks_for(items, kRopeWarps);
    const int width = vector_width(2, sizeof(T), args.x, args.token_stride, args.head_stride);
    if (args.dim <= 128 && width == 2) {
      norm_rope_kernel<T, 2, 2><<<blocks, kRopeWarps * 32, 0, stream>>>(args);
    } else {
      norm_rope_kernel<T, kMaxRopeDim / 64, 1><<<blocks, kRopeWarps * 32, 0, stream>>>(args);
    }
  });
}

void rope_angles(const RopeAngles& args, cudaStream_t stream) {
  const int64_t items = args.tokens * args.pairs;
  if (items == 0) return;
  rope_angles_kernel<<<blocks_for(items, 128), 128, 0, stream>>>(args);
}

}  // namespace flux::cuda
