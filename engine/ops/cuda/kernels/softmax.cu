#include <cfloat>

#include "ops/cuda/kernels/device.cuh"
#include "ops/cuda/kernels/kernels.h"

namespace flux::cuda {
namespace {

constexpr int kThreads = 256;

/// One block a row of scores.
template <typename T>
__global__ void __launch_bounds__(kThreads) softmax_kernel(SoftmaxRows args) {
  __shared__ float shared[32];
  const int64_t head = blockIdx.y;
  const int64_t row = head * args.q_rows + blockIdx.x;
  const int64_t query = args.first_q + blockIdx.x;
  const float* scores = args.scores + row * args.row_stride;
  auto* out = static_cast<T*>(args.out) + row * args.row_stride;
  const float* bias = nullptr;  // of key 0
  if (args.bias) {
    bias = args.bias + head * (args.q_tokens + args.k_tokens - 1) + args.q_tokens - 1 - query;
  }
  const int64_t keys = args.causal ? min(args.k_tokens, query + 1) : args.k_tokens;
  const auto score = [&](int64_t key) {
    const float value = scores[key] * args.scale;
    return bias ? value + bias[key] : value;
  };
  float largest = -FLT_MAX;
  for (int64_t key = threadIdx.x; key < keys; key += kThreads) largest = fmaxf(largest, score(key));
  largest = block_reduce<true>(largest, shared);
  float total = 0.0f;
  for (int64_t key = threadIdx.x; key < keys; key += kThreads) {
    total += __expf(score(key) - largest);
  }
  const float factor = 1.0f / block_reduce(total, shared);
  for (int64_t key = threadIdx.x; key < args.k_tokens; key += kThreads) {
    out[key] = from_float<T>(key < keys ? __expf(score(key) - largest) * factor : 0.0f);
  }
}

}  // namespace

void softmax_rows(const SoftmaxRows& args, DType dtype, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(args.q_rows), static_cast<unsigned>(args.heads));
  dispatch(dtype, [&]<typename T>() { softmax_kernel<T><<<grid, kThreads, 0, stream>>>(args); });
}

}  // namespace flux::cuda
