#include "ops/cuda/kernels/device.cuh"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/kernels/launch.cuh"

namespace flux::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
__device__ float rounded(float value) {
  return to_float(from_float<T>(value));
}

// Products and sums are rounded apart, as torch does: no contraction to a fused one.
template <typename T>
__global__ void __launch_bounds__(kThreads) euler_kernel(EulerValues args) {
  begin_kernel();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.count) return;
  auto* latents = static_cast<T*>(args.latents);
  float noise = to_float(static_cast<const T*>(args.prediction)[i]);
  if (args.negative) {
    const float base = to_float(static_cast<const T*>(args.negative)[i]);
    const float scaled = rounded<T>(__fmul_rn(args.cfg_scale, rounded<T>(noise - base)));
    noise = rounded<T>(__fadd_rn(base, scaled));
  }
  const float change = rounded<T>(__fmul_rn(args.delta, noise));
  latents[i] = from_float<T>(__fadd_rn(to_float(latents[i]), change));
}

template <typename T>
__global__ void __launch_bounds__(kThreads) unpack_kernel(UnpackValues args) {
  begin_kernel();
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= args.channels * args.height * args.width) return;
  const int64_t x = item % args.width;
  const int64_t y = item / args.width % args.height;
  const int64_t channel = item / args.width / args.height;
  const int64_t token = y / 2 * (args.width / 2) + x / 2;
  const int64_t at = (token * args.channels + channel) * 4 + y % 2 * 2 + x % 2;
  const float value = to_float(static_cast<const T*>(args.packed)[at]);
  const float scaled = rounded<T>(__fdiv_rn(value, args.divisor));
  static_cast<T*>(args.out)[item] = from_float<T>(__fadd_rn(scaled, args.shift));
}

__global__ void __launch_bounds__(kThreads)
    bytes_kernel(const float* x, int64_t plane, uint8_t* out) {
  begin_kernel();
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= 3 * plane) return;
  const float unit = __fadd_rn(__fmul_rn(x[item % 3 * plane + item / 3], 0.5f), 0.5f);
  const float clamped = unit > 0.0f ? fminf(unit, 1.0f) : 0.0f;  // NaN too
  out[item] = static_cast<uint8_t>(rintf(clamped * 255.0f));
}

}  // namespace

cudaError_t euler_values(const EulerValues& args, DType dtype, cudaStream_t stream) {
  return dispatch(dtype, [&]<typename T>() {
    return launch_kernel(euler_kernel<T>, {blocks_for(args.count, kThreads), kThreads, stream},
                         args);
  });
}

cudaError_t unpack_values(const UnpackValues& args, DType dtype, cudaStream_t stream) {
  const int64_t count = args.channels * args.height * args.width;
  return dispatch(dtype, [&]<typename T>() {
    return launch_kernel(unpack_kernel<T>, {blocks_for(count, kThreads), kThreads, stream}, args);
  });
}

cudaError_t byte_pixels(const float* x, int64_t plane, uint8_t* out, cudaStream_t stream) {
  return launch_kernel(bytes_kernel, {blocks_for(3 * plane, kThreads), kThreads, stream}, x, plane,
                       out);
}

}  // namespace flux::cuda
