#include "ops/cuda/kernels/device.cuh"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/kernels/launch.cuh"

namespace flux::cuda {
namespace {

constexpr int kThreads = 256;

/// A thread copies N channels of one tap of one output pixel.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads) im2col_kernel(Im2col args) {
  begin_kernel();
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t vectors = args.channels / N;
  const int64_t taps = args.kernel * args.kernel;
  const int64_t pixel = item / (vectors * taps);
  if (pixel >= args.count) return;
  const int64_t tap = item / vectors % taps;
  const int64_t channel = item % vectors * N;
  const int64_t row = (args.first + pixel) / args.out_width;
  const int64_t column = (args.first + pixel) % args.out_width;
  const int64_t y = row * args.stride + tap / args.kernel - args.border;
  const int64_t x = column * args.stride + tap % args.kernel - args.border;
  Pack<T, N> pack{};
  if (y >= 0 && x >= 0 && y < args.height * args.scale && x < args.width * args.scale) {
    const int64_t from = (y / args.scale * args.width + x / args.scale) * args.channels + channel;
    pack = Pack<T, N>::load(static_cast<const T*>(args.x) + from);
  }
  pack.store(static_cast<T*>(args.out) + item * N);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    reorder_kernel(const T* x, int64_t out_channels, int64_t in_channels, int64_t taps, T* out) {
  begin_kernel();
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= out_channels * in_channels * taps) return;
  const int64_t channel = item % in_channels;
  const int64_t tap = item / in_channels % taps;
  const int64_t filter = item / in_channels / taps;
  out[item] = x[(filter * in_channels + channel) * taps + tap];
}

/// Whether row (or column) `tap` of a 3 x 3 filter falls on row `part` of the 2 that a phase sees.
__device__ bool falls_on(int phase, int part, int tap) {
  return phase == 0 ? (tap > 0) == (part > 0) : (tap > 1) == (part > 0);
}

__global__ void __launch_bounds__(kThreads)
    phase_kernel(const float* x, int64_t out_channels, int64_t in_channels, bf16* out) {
  begin_kernel();
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= 16 * out_channels * in_channels) return;
  const int64_t channel = item % in_channels;
  const auto part = static_cast<int>(item / in_channels % 4);
  const int64_t filter = item / in_channels / 4 % out_channels;
  const auto phase = static_cast<int>(item / in_channels / 4 / out_channels);
  float sum = 0.0f;
  for (int tap = 0; tap < 9; ++tap) {
    if (falls_on(phase / 2, part / 2, tap / 3) && falls_on(phase % 2, part % 2, tap % 3)) {
      sum += x[(filter * in_channels + channel) * 9 + tap];
    }
  }
  out[item] = from_float<bf16>(sum);
}

}  // namespace

cudaError_t make_phase_filters(const float* weights, int64_t out_channels, int64_t in_channels,
                               void* out, cudaStream_t stream) {
  const unsigned blocks = blocks_for(16 * out_channels * in_channels, kThreads);
  return launch_kernel(phase_kernel, {blocks, kThreads, stream}, weights, out_channels, in_channels,
                       static_cast<bf16*>(out));
}

cudaError_t im2col(const Im2col& args, DType dtype, cudaStream_t stream) {
  return dispatch(dtype, [&]<typename T>() {
    constexpr int kWidest = 16 / sizeof(T);
    const int64_t elements = args.count * args.kernel * args.kernel * args.channels;
    if (vector_width(kWidest, sizeof(T), args.x, args.out, args.channels) == kWidest) {
      return launch_kernel(im2col_kernel<T, kWidest>,
                           {blocks_for(elements / kWidest, kThreads), kThreads, stream}, args);
    }
    return launch_kernel(im2col_kernel<T, 1>, {blocks_for(elements, kThreads), kThreads, stream},
                         args);
  });
}

cudaError_t reorder_filters(const void* x, int64_t out_channels, int64_t in_channels,
                            int64_t kernel, void* out, DType dtype, cudaStream_t stream) {
  const int64_t taps = kernel * kernel;
  return dispatch(dtype, [&]<typename T>() {
    const unsigned blocks = blocks_for(out_channels * in_channels * taps, kThreads);
    return launch_kernel(reorder_kernel<T>, {blocks, kThreads, stream}, static_cast<const T*>(x),
                         out_channels, in_channels, taps, static_cast<T*>(out));
  });
}

}  // namespace flux::cuda
