#include <algorithm>

#include "ops/cuda/kernels/launch.cuh"
#include "ops/cuda/kernels/norms.cuh"

/// Norms whose results are e4m3 with a scale and a norm for each row. A warp takes a row, so that
/// no reduction waits for a block; the columns' parameters are in shared memory.
namespace flux::cuda {
namespace {

constexpr int kWarps = 8;   // of a block, at most
constexpr int kValues = 8;  // of a vector
/// As many as its registers have room for, at 128 a thread.
constexpr int kBlocksOfAMultiprocessor = 2;

using Values = Pack<float, kValues>;

__device__ Values load(const bf16* from) {
  const auto words = Pack<uint32_t, kValues / 2>::load(reinterpret_cast<const uint32_t*>(from));
  return unpack_words(words.values);
}
/// The first column of a lane's i-th vector.
__device__ int column_at(int i) { return (i * 32 + static_cast<int>(threadIdx.x) % 32) * kValues; }

/// A row of kHeld vectors a lane, in registers.
template <int kHeld>
struct HeldRow {
  Values held[kHeld];

  __device__ explicit HeldRow(const bf16* row) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) held[i] = load(row + column_at(i));
  }
  /// Calls f(first column, values) for each vector; what it makes of the values is what the next
  /// call finds.
  template <typename F>
  __device__ void each(const F& f) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) f(column_at(i), held[i]);
  }
};

/// A row of any number of vectors, in shared memory: each lane has its own.
struct StoredRow {
  float* values;
  int count;

  __device__ StoredRow(const bf16* row, int vectors, float* scratch)
      : values(scratch), count((vectors - static_cast<int>(threadIdx.x) % 32 + 31) / 32) {
    for (int i = 0; i < count; ++i) load(row + column_at(i)).store(values + column_at(i));
  }
  template <typename F>
  __device__ void each(const F& f) {
    for (int i = 0; i < count; ++i) {
      Values own = Values::load(values + column_at(i));
      f(column_at(i), own);
      own.store(values + column_at(i));
    }
  }
};

template <typename Row>
__device__ void encode_row(const NormRows& args, int64_t index, Row row, const float* factors,
                           const float* offsets) {
  const auto n = static_cast<float>(args.n);
  float mean = 0.0f;
  if (args.centred) {
    row.each([&](int, const Values& values) {
#pragma unroll
      for (const float value : values.values) mean += value;
    });
    mean = warp_sum(mean) / n;
  }
  float squares = 0.0f;
  row.each([&](int, Values& values) {
#pragma unroll
    for (float& value : values.values) {
      value -= mean;
      squares += value * value;
    }
  });
  const float factor = rsqrtf(warp_sum(squares) / n + args.eps);
  float largest = 0.0f;
  float results = 0.0f;  // their squares
  row.each([&](int column, Values& values) {
    const auto by = Values::load(factors + column);
    const auto offset = Values::load(offsets + column);
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      float& y = values.values[i];
      y = y * (factor * by.values[i]) + offset.values[i];
      largest = fmaxf(largest, fabsf(y));
      results += y * y;
    }
  });
  const float scale = warp_max(largest) * (1.0f / kLargestE4M3);
  const float encoding = e4m3_factor(scale);
  uint8_t* out = static_cast<uint8_t*>(args.out) + index * args.out_stride;
  row.each(
      [&](int column, const Values& values) { store_as_e4m3(values, encoding, out + column); });
  const float norm = sqrtf(warp_sum(results));
  if (threadIdx.x % 32 != 0) return;
  args.scales[index] = scale;
  // Rounding makes a number larger by at most a sixteenth, or by half of the smallest one.
  args.norms[index] = norm * (1.0f + 0x1p-4f) + scale * 0x1p-10f * sqrtf(n);
}

template <int kHeld>
__global__ void __launch_bounds__(kWarps * 32, kBlocksOfAMultiprocessor)
    norm_e4m3_kernel(const __grid_constant__ GridSplit grid) {
  begin_kernel();
  extern __shared__ float4 shared[];
  const NormBlock block = NormBlock::of(grid);
  const NormRows& args = block.args;
  const int n = static_cast<int>(args.n);
  auto* factors = reinterpret_cast<float*>(shared);
  float* offsets = factors + n;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) {
    const Column column = column_of(args, i);
    factors[i] = column.factor;
    offsets[i] = column.offset;
  }
  __syncthreads();
  const int64_t warps = blockDim.x / 32;
  for (int64_t row = block.index * warps + threadIdx.x / 32; row < args.rows;
       row += block.count * warps) {
    const bf16* x = static_cast<const bf16*>(args.x) + row * args.x_stride;
    if constexpr (kHeld > 0) {
      encode_row(args, row, HeldRow<kHeld>(x), factors, offsets);
    } else {
      float* scratch = offsets + n + threadIdx.x / 32 * n;
      encode_row(args, row, StoredRow(x, n / kValues, scratch), factors, offsets);
    }
  }
}

}  // namespace

cudaError_t encode_norm_rows(std::span<const NormRows> segments, DType dtype, const GpuTraits& gpu,
                             cudaStream_t stream) {
  if (dtype != DType::kBF16 || segments[0].n % kValues != 0) return cudaErrorInvalidValue;
  GridSplit grid{};
  const int64_t most = int64_t{kBlocksOfAMultiprocessor} * gpu.multiprocessors;
  const unsigned blocks = split_grid(segments, most, grid);
  const int64_t n = segments[0].n;
  const auto run = [&](auto* kernel, int warps, int64_t floats) {  // in shared memory
    const dim3 threads(static_cast<unsigned>(warps) * 32);
    return launch_kernel(kernel, {blocks, threads, stream, floats * sizeof(float)}, grid);
  };
  if (n == 12 * 32 * kValues) return run(norm_e4m3_kernel<12>, kWarps, 2 * n);  // as FLUX.1 has
  const int warps = n <= 4096 ? kWarps : 2;
  return run(norm_e4m3_kernel<0>, warps, (2 + warps) * n);
}

}  // namespace flux::cuda
