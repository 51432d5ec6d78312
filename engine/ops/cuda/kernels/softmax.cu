#include <cfloat>

#include "ops/cuda/kernels/device.cuh"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/kernels/launch.cuh"

namespace flux::cuda {
namespace {

constexpr int kThreads = 256;

constexpr int kPack = 4;  // keys that are loaded at once

/// The row of scores that a block computes.
template <typename T>
struct Row {
  const float* scores;
  T* out;
  const float* bias = nullptr;  // of key 0
  int64_t keys;                 // with a weight
  float scale;

  __device__ explicit Row(const SoftmaxRows& args) : scale(args.scale) {
    const int64_t head = blockIdx.y;
    const int64_t first = (head * args.q_rows + blockIdx.x) * args.row_stride;
    const int64_t query = args.first_q + blockIdx.x;
    scores = args.scores + first;
    out = static_cast<T*>(args.out) + first;
    keys = args.causal ? min(args.k_tokens, query + 1) : args.k_tokens;
    if (args.bias) {
      bias = args.bias + head * (args.q_tokens + args.k_tokens - 1) + args.q_tokens - 1 - query;
    }
  }
  __device__ float finish(float score, int64_t key) const {
    return bias ? score * scale + bias[key] : score * scale;
  }
};

/// For rows of at most kPacks packs a thread, which stay in registers. `row_stride` is a multiple
/// of kPack.
template <typename T, int kPacks>
__global__ void __launch_bounds__(kThreads) held_softmax_kernel(SoftmaxRows args) {
  begin_kernel();
  __shared__ float shared[32];
  const Row<T> row(args);
  const auto first = [](int pack) {
    return (pack * kThreads + static_cast<int64_t>(threadIdx.x)) * kPack;
  };
  Pack<float, kPack> held[kPacks];
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    if (first(p) < row.keys) held[p] = Pack<float, kPack>::load(row.scores + first(p));
  }
  float largest = -FLT_MAX;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      float& value = held[p].values[i];
      const int64_t key = first(p) + i;
      value = key < row.keys ? row.finish(value, key) : -FLT_MAX;
      largest = fmaxf(largest, value);
    }
  }
  largest = block_reduce<true>(largest, shared);
  float total = 0.0f;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
#pragma unroll
    for (float& value : held[p].values) {
      value = __expf(value - largest);
      total += value;
    }
  }
  const float factor = 1.0f / block_reduce(total, shared);
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    if (first(p) >= args.k_tokens) continue;
    Pack<T, kPack> weights;
#pragma unroll
    for (int i = 0; i < kPack; ++i) weights.values[i] = from_float<T>(held[p].values[i] * factor);
    weights.store(row.out + first(p));
  }
}

/// For rows of any length, which are read three times.
template <typename T>
__global__ void __launch_bounds__(kThreads) softmax_kernel(SoftmaxRows args) {
  begin_kernel();
  __shared__ float shared[32];
  const Row<T> row(args);
  const auto score = [&](int64_t key) { return row.finish(row.scores[key], key); };
  float largest = -FLT_MAX;
  for (int64_t key = threadIdx.x; key < row.keys; key += kThreads) {
    largest = fmaxf(largest, score(key));
  }
  largest = block_reduce<true>(largest, shared);
  float total = 0.0f;
  for (int64_t key = threadIdx.x; key < row.keys; key += kThreads) {
    total += __expf(score(key) - largest);
  }
  const float factor = 1.0f / block_reduce(total, shared);
  for (int64_t key = threadIdx.x; key < args.k_tokens; key += kThreads) {
    row.out[key] = from_float<T>(key < row.keys ? __expf(score(key) - largest) * factor : 0.0f);
  }
}

}  // namespace

cudaError_t softmax_rows(const SoftmaxRows& args, DType dtype, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(args.q_rows), static_cast<unsigned>(args.heads));
  const bool packs =
      vector_width(kPack, sizeof(float), args.scores, args.out, args.row_stride) == kPack;
  const int64_t each =
      packs ? (args.k_tokens + kThreads * kPack - 1) / (kThreads * kPack) : INT64_MAX;
  return dispatch(dtype, [&]<typename T>() {
    auto kernel = softmax_kernel<T>;
    if (each <= 16) kernel = held_softmax_kernel<T, 16>;
    if (each <= 4) kernel = held_softmax_kernel<T, 4>;
    if (each <= 1) kernel = held_softmax_kernel<T, 1>;
    return launch_kernel(kernel, {grid, kThreads, stream}, args);
  });
}

}  // namespace flux::cuda
