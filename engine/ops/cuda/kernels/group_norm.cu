#include "ops/cuda/kernels/device.cuh"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/kernels/launch.cuh"

/// Group norm in three passes: the moments of every chunk of pixels, their union for each group,
/// and the result. Sums are of distances from a value of the group itself, so that a large mean
/// does not cost digits.
namespace flux::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kChunk = 128;  // pixels whose moments are summed together
constexpr int kHeldPixels = 4;

struct Moments {
  float count;
  float mean;
  float squares;  // of the distances from the mean

  /// Chan, Golub and LeVeque (1983).
  __device__ void unite(const Moments& other) {
    const float both = count + other.count;
    if (other.count == 0.0f) return;
    const float distance = other.mean - mean;
    mean += distance * (other.count / both);
    squares += other.squares + distance * distance * (count * other.count / both);
    count = both;
  }
};

/// The moments of a chunk: a block sums a slice of kThreads vectors of N channels, none of which
/// spans two groups. Threads with the same vector interleave over the pixels.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads) moments_kernel(GroupNorm args, Moments* chunks) {
  begin_kernel();
  __shared__ float sums[kThreads];
  __shared__ float squares[kThreads];
  const auto* x = static_cast<const T*>(args.x);
  const int size = static_cast<int>(args.channels / args.groups);
  const int per_group = size / N;  // vectors
  // A block has whole groups: as many as fit, at least one.
  const int block_groups = max(1, min(static_cast<int>(args.groups), kThreads / per_group));
  const int vectors = block_groups * per_group;
  const int first_group = static_cast<int>(blockIdx.y) * block_groups;
  const int strides = max(1, kThreads / vectors);  // threads with the same vector
  const int stride = static_cast<int>(threadIdx.x) / vectors;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kChunk;
  const int64_t end = min(args.pixels, begin + kChunk);
  float sum = 0.0f;
  float square = 0.0f;
  // More vectors than threads only in groups of thousands of channels.
  for (int v = static_cast<int>(threadIdx.x) % vectors; v < vectors && stride < strides;
       v += kThreads) {
    const int group = first_group + v / per_group;
    if (group >= args.groups) break;
    const int64_t channel = static_cast<int64_t>(group) * size + v % per_group * N;
    const float pivot = to_float(x[begin * args.channels + static_cast<int64_t>(group) * size]);
    for (int64_t pixel = begin + stride; pixel < end; pixel += strides) {
      const auto pack = Pack<T, N>::load(x + pixel * args.channels + channel);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float distance = to_float(pack.values[i]) - pivot;
        sum += distance;
        square += distance * distance;
      }
    }
  }
  sums[threadIdx.x] = sum;
  squares[threadIdx.x] = square;
  __syncthreads();
  const int group = first_group + static_cast<int>(threadIdx.x);
  if (static_cast<int>(threadIdx.x) >= block_groups || group >= args.groups) return;
  float total = 0.0f;
  float total_squares = 0.0f;
  for (int t = 0; t < strides; ++t) {
    for (int i = 0; i < min(per_group, kThreads); ++i) {
      const int thread = t * vectors + static_cast<int>(threadIdx.x) * per_group + i;
      total += sums[thread];
      total_squares += squares[thread];
    }
  }
  const auto count = static_cast<float>((end - begin) * size);
  const float pivot = to_float(x[begin * args.channels + static_cast<int64_t>(group) * size]);
  chunks[static_cast<int64_t>(blockIdx.x) * args.groups + group] = {
      count, pivot + total / count, fmaxf(0.0f, total_squares - total * total / count)};
}

/// The mean and 1 / standard deviation of a group, by one block.
__global__ void __launch_bounds__(kThreads)
    unite_kernel(GroupNorm args, const Moments* chunks, int64_t count, float2* groups) {
  begin_kernel();
  __shared__ Moments shared[kThreads];
  Moments own{};
  for (int64_t i = threadIdx.x; i < count; i += kThreads) {
    own.unite(chunks[i * args.groups + blockIdx.x]);
  }
  shared[threadIdx.x] = own;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) shared[threadIdx.x].unite(shared[threadIdx.x + half]);
  }
  if (threadIdx.x != 0) return;
  const Moments all = shared[0];
  groups[blockIdx.x] = {all.mean, rsqrtf(all.squares / all.count + args.eps)};
}

/// The norm of a channel: y = (x - mean) * factor + bias. Not x * factor + (bias - mean * factor),
/// which cancels when the mean is large.
struct Channel {
  float mean;
  float factor;
  float bias;
};

__device__ Channel channel_of(const GroupNorm& args, const float2* groups, int channel) {
  const float2 group = groups[channel / static_cast<int>(args.channels / args.groups)];
  return {group.x, group.y * args.weight[channel], args.bias[channel]};
}

template <Activation kActivation, typename T, int N>
__device__ void apply(const Channel (&channels)[N], Pack<T, N>& pack) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float y = (to_float(pack.values[i]) - channels[i].mean) * channels[i].factor;
    pack.values[i] = from_float<T>(activate(kActivation, y + channels[i].bias));
  }
}

/// A thread normalises N channels of kHeldPixels pixels; the threads of a block are a multiple of
/// the vectors of a pixel.
template <typename T, int N, Activation kActivation>
__global__ void __launch_bounds__(kThreads)
    held_apply_kernel(GroupNorm args, const float2* groups) {
  begin_kernel();
  const int vectors = static_cast<int>(args.channels) / N;
  const int at_once = kThreads / vectors;  // pixels
  const int channel = static_cast<int>(threadIdx.x) % vectors * N;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * at_once * kHeldPixels +
                        static_cast<int>(threadIdx.x) / vectors;
  const auto at = [&](int i) { return (first + i * at_once) * args.channels + channel; };
  Pack<T, N> held[kHeldPixels];  // all are loaded before the first store, as x may be out
#pragma unroll
  for (int i = 0; i < kHeldPixels; ++i) {
    if (first + i * at_once >= args.pixels) continue;
    held[i] = Pack<T, N>::load(static_cast<const T*>(args.x) + at(i));
  }
  Channel channels[N];
#pragma unroll
  for (int i = 0; i < N; ++i) channels[i] = channel_of(args, groups, channel + i);
#pragma unroll
  for (int i = 0; i < kHeldPixels; ++i) {
    if (first + i * at_once >= args.pixels) continue;
    apply<kActivation>(channels, held[i]);
    held[i].store(static_cast<T*>(args.out) + at(i));
  }
}

/// For any number of channels: a thread normalises one element.
template <typename T, Activation kActivation>
__global__ void __launch_bounds__(kThreads) apply_kernel(GroupNorm args, const float2* groups) {
  begin_kernel();
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= args.pixels * args.channels) return;
  const Channel channel[1] = {channel_of(args, groups, static_cast<int>(item % args.channels))};
  auto pack = Pack<T, 1>::load(static_cast<const T*>(args.x) + item);
  apply<kActivation>(channel, pack);
  pack.store(static_cast<T*>(args.out) + item);
}

template <typename T, Activation kActivation>
cudaError_t run_apply(const GroupNorm& args, const float2* groups, cudaStream_t stream) {
  constexpr int N = 16 / sizeof(T);
  const int width = vector_width(N, sizeof(T), args.x, args.out, args.channels);
  if (width == N && args.channels / N <= kThreads && kThreads % (args.channels / N) == 0) {
    const int64_t pixels = kThreads / (args.channels / N) * kHeldPixels;
    return launch_kernel(held_apply_kernel<T, N, kActivation>,
                         {blocks_for(args.pixels, pixels), kThreads, stream}, args, groups);
  }
  const unsigned blocks = blocks_for(args.pixels * args.channels, kThreads);
  return launch_kernel(apply_kernel<T, kActivation>, {blocks, kThreads, stream}, args, groups);
}

template <typename T, int N>
cudaError_t run(const GroupNorm& args, cudaStream_t stream) {
  const int64_t chunks = (args.pixels + kChunk - 1) / kChunk;
  auto* groups = reinterpret_cast<float2*>(args.scratch);
  auto* moments = reinterpret_cast<Moments*>(args.scratch + 2 * args.groups);
  const auto per_group = static_cast<int64_t>(args.channels / args.groups / N);
  const int64_t block_groups =
      std::max<int64_t>(1, std::min<int64_t>(args.groups, kThreads / per_group));
  const dim3 grid(static_cast<unsigned>(chunks), blocks_for(args.groups, block_groups));
  cudaError_t result = launch_kernel(moments_kernel<T, N>, {grid, kThreads, stream}, args, moments);
  if (result != cudaSuccess) return result;
  result = launch_kernel(unite_kernel, {static_cast<unsigned>(args.groups), kThreads, stream}, args,
                         moments, chunks, groups);
  if (result != cudaSuccess) return result;
  // The activation is a template parameter: a branch for each element takes longer than the memory.
  return args.activation == Activation::kSilu
             ? run_apply<T, Activation::kSilu>(args, groups, stream)
             : run_apply<T, Activation::kNone>(args, groups, stream);
}

}  // namespace

int64_t group_norm_scratch(int64_t pixels, int64_t groups) {
  return groups * 2 + (pixels + kChunk - 1) / kChunk * groups * 3;
}

cudaError_t group_norm(const GroupNorm& args, DType dtype, cudaStream_t stream) {
  if (args.pixels == 0) return cudaSuccess;
  return dispatch(dtype, [&]<typename T>() {
    const int width =
        vector_width(16 / sizeof(T), sizeof(T), args.x, args.out, args.channels / args.groups);
    if constexpr (sizeof(T) == 2) {
      if (width == 8) return run<T, 8>(args, stream);
    }
    return width == 4 ? run<T, 4>(args, stream) : run<T, 1>(args, stream);
  });
}

}  // namespace flux::cuda
