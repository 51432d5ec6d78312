#include "ops/cuda/kernels/device.cuh"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/kernels/launch.cuh"

/// Rows to e4m3, and what is to be known of rows beforehand. A block takes a row.
namespace flux::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kValues = 8;

/// Calls f(column, values) for the vectors of a row that are this thread's.
template <typename T, typename F>
__device__ void for_each_vector(const T* row, int64_t columns, const F& f) {
  for (int64_t at = threadIdx.x * kValues; at < columns; at += kThreads * kValues) {
    Pack<float, kValues> values;
#pragma unroll
    for (int i = 0; i < kValues; ++i) values.values[i] = to_float(row[at + i]);
    f(at, values);
  }
}

/// The least scale that suits the whole row.
template <typename T>
__device__ float scale_of(const T* row, int64_t columns, float* shared) {
  float largest = 0.0f;
  for_each_vector(row, columns, [&](int64_t, const Pack<float, kValues>& values) {
#pragma unroll
    for (const float value : values.values) largest = fmaxf(largest, fabsf(value));
  });
  return block_reduce<true>(largest, shared) * (1.0f / kLargestE4M3);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) encode_rows_kernel(EncodeRows args) {
  begin_kernel();
  __shared__ float shared[32];
  const int64_t row = blockIdx.x;
  const T* x = static_cast<const T*>(args.x) + row * args.x_stride;
  const float scale =
      args.given ? args.given[row * args.given_stride] : scale_of(x, args.columns, shared);
  const float factor = e4m3_factor(scale);
  float squares = 0.0f;
  for_each_vector(x, args.columns, [&](int64_t at, const Pack<float, kValues>& values) {
    squares += store_as_e4m3(values, factor, args.out + row * args.out_stride + at);
  });
  const float norm = sqrtf(block_reduce(squares, shared)) * scale;
  if (threadIdx.x != 0) return;
  if (!args.given) args.scales[row] = scale;
  if (args.norms) args.norms[row] = norm;
  if (args.largest_norm) raise(args.largest_norm, norm, true);
}

__global__ void __launch_bounds__(kThreads) raise_scale_kernel(LargestRows args) {
  begin_kernel();
  __shared__ float shared[32];
  const bf16* row = static_cast<const bf16*>(args.x) + blockIdx.x * args.x_stride;
  raise(args.scale, scale_of(row, args.columns, shared), threadIdx.x == 0);
}

__global__ void __launch_bounds__(kThreads) raise_norm_kernel(E4M3Norms args) {
  begin_kernel();
  __shared__ float shared[32];
  const uint8_t* row = args.x + blockIdx.x * args.columns;
  float squares = 0.0f;
  for (int64_t at = threadIdx.x; at < args.columns; at += kThreads) {
    const __half_raw half = __nv_cvt_fp8_to_halfraw(row[at], __NV_E4M3);
    const float value = __half2float(half);
    squares += value * value;
  }
  const float norm = sqrtf(block_reduce(squares, shared)) * args.scales[blockIdx.x];
  raise(args.largest_norm, norm, threadIdx.x == 0);
}

}  // namespace

cudaError_t encode_rows(const EncodeRows& args, DType dtype, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  return dispatch(dtype, [&]<typename T>() {
    return launch_kernel(encode_rows_kernel<T>,
                         {static_cast<unsigned>(args.rows), kThreads, stream}, args);
  });
}

cudaError_t raise_scale(const LargestRows& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  return launch_kernel(raise_scale_kernel, {static_cast<unsigned>(args.rows), kThreads, stream},
                       args);
}

cudaError_t raise_norm(const E4M3Norms& args, cudaStream_t stream) {
  return launch_kernel(raise_norm_kernel, {static_cast<unsigned>(args.rows), kThreads, stream},
                       args);
}

}  // namespace flux::cuda
