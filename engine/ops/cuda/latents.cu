#include "ops/cuda/cuda_backend.h"
#include "ops/cuda/kernels/device.cuh"
#include "ops/cuda/kernels/launch.cuh"
#include "ops/cuda/state.h"

namespace flux::cuda {
namespace {

constexpr int kThreads = 256;

struct EulerArgs {
  void* latents;
  int64_t count;
  float delta;  // rounded to T
  const void* prediction;
  const void* negative;  // null where left out
  float cfg_scale;
};

struct NoiseArgs {
  void* latents;
  int64_t count;
  float sigma, rest;  // rounded to T
  const void* image;
  const void* noise;
  const void* mask;  // null where left out
};

struct UnpackArgs {
  const void* packed;
  int64_t channels, height, width;
  float divisor, shift;
  void* out;
};

template <typename T>
__device__ float rounded(float value) {
  return to_float(from_float<T>(value));
}

// Products and sums are rounded apart, as torch does: no contraction to a fused one.
template <typename T>
__global__ void __launch_bounds__(kThreads) euler_kernel(EulerArgs args) {
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
__global__ void __launch_bounds__(kThreads) noise_kernel(NoiseArgs args) {
  begin_kernel();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.count) return;
  if (args.mask && to_float(static_cast<const T*>(args.mask)[i]) != 0.0f) return;
  const float noise = to_float(static_cast<const T*>(args.noise)[i]);
  const float image = to_float(static_cast<const T*>(args.image)[i]);
  static_cast<T*>(args.latents)[i] = from_float<T>(
      __fadd_rn(rounded<T>(__fmul_rn(args.sigma, noise)), rounded<T>(__fmul_rn(args.rest, image))));
}

template <typename T>
__global__ void __launch_bounds__(kThreads) unpack_kernel(UnpackArgs args) {
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

void CudaBackend::euler_step(Context& ctx, const Tensor& latents, const EulerStep& step) {
  const EulerArgs args{.latents = address(ctx, latents),
                       .count = latents.numel(),
                       .delta = round_to(latents.dtype(), step.delta),
                       .prediction = address(ctx, step.prediction),
                       .negative = optional_address(ctx, step.negative),
                       .cfg_scale = step.cfg_scale};
  const Grid grid{blocks_for(args.count, kThreads), kThreads, state_of(ctx).stream()};
  const cudaError_t launched = dispatch(
      latents.dtype(), [&]<typename T>() { return launch_kernel(euler_kernel<T>, grid, args); });
  check_cuda(launched, "euler_step");
}

void CudaBackend::scale_noise(Context& ctx, const Tensor& latents, const NoisedImage& noised) {
  const DType dtype = latents.dtype();
  const float sigma = round_to(dtype, noised.sigma);
  const NoiseArgs args{.latents = address(ctx, latents),
                       .count = latents.numel(),
                       .sigma = sigma,
                       .rest = round_to(dtype, 1.0f - sigma),
                       .image = address(ctx, noised.image),
                       .noise = address(ctx, noised.noise),
                       .mask = optional_address(ctx, noised.mask)};
  const Grid grid{blocks_for(args.count, kThreads), kThreads, state_of(ctx).stream()};
  const cudaError_t launched =
      dispatch(dtype, [&]<typename T>() { return launch_kernel(noise_kernel<T>, grid, args); });
  check_cuda(launched, "scale_noise");
}

void CudaBackend::unpack_tokens(Context& ctx, const ConstTensor& packed, float divisor, float shift,
                                const Tensor& out) {
  const UnpackArgs args{.packed = address(ctx, packed),
                        .channels = out.size(0),
                        .height = out.size(1),
                        .width = out.size(2),
                        .divisor = divisor,
                        .shift = shift,
                        .out = address(ctx, out)};
  const Grid grid{blocks_for(out.numel(), kThreads), kThreads, state_of(ctx).stream()};
  const cudaError_t launched = dispatch(
      out.dtype(), [&]<typename T>() { return launch_kernel(unpack_kernel<T>, grid, args); });
  check_cuda(launched, "unpack_tokens");
}

void CudaBackend::to_bytes(Context& ctx, const ConstTensor& x, const Tensor& out) {
  const int64_t plane = x.size(1) * x.size(2);
  const Grid grid{blocks_for(3 * plane, kThreads), kThreads, state_of(ctx).stream()};
  check_cuda(launch_kernel(bytes_kernel, grid, optional_floats(ctx, x), plane,
                           static_cast<uint8_t*>(address(ctx, out))),
             "to_bytes");
}

}  // namespace flux::cuda
