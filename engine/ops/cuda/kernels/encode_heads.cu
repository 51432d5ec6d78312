#include "ops/cuda/kernels/device.cuh"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/kernels/launch.cuh"

/// Queries, keys and values of bf16 to e4m3, for hopper_attention(). A block takes kTokens tokens
/// of a head.
namespace flux::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTokens = 64;
constexpr int kValues = 8;  // that a thread loads at once
constexpr int kLoads = kTokens * kEncodedDim / kValues / kThreads;
constexpr int kKeysTogether = 16;

/// A row of the block's tile, padded so that columns lie in different banks.
using TileRow = uint8_t[kEncodedDim + 4];

/// Calls f(token, row, column, numbers) for the vectors of the tile that are this thread's: zeros
/// after the last token and after `dim`.
template <typename Args, typename F>
__device__ void for_each_vector(const Args& args, float factor, const F& f) {
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int at = (i * kThreads + static_cast<int>(threadIdx.x)) * kValues;
    const int row = at / static_cast<int>(kEncodedDim);
    const int column = at % static_cast<int>(kEncodedDim);
    const int64_t token = static_cast<int64_t>(blockIdx.x) * kTokens + row;
    Pack<float, kValues> values{};
    if (token < args.tokens && column < args.dim) {
      const bf16* from = static_cast<const bf16*>(args.x) + token * args.strides[0] +
                         blockIdx.y * args.strides[1] + column;
      const auto words = Pack<uint32_t, 4>::load(reinterpret_cast<const uint32_t*>(from));
      values = unpack_words(words.values);
    }
    alignas(8) uint8_t numbers[kValues];
    store_as_e4m3(values, factor, numbers);
    f(token, row, column, *reinterpret_cast<const uint2*>(numbers));
  }
}

__global__ void __launch_bounds__(kThreads) encode_heads_kernel(EncodeHeads args) {
  begin_kernel();
  for_each_vector(args, e4m3_factor(args.scale),
                  [&](int64_t token, int, int column, const uint2& numbers) {
                    if (token >= args.tokens) return;
                    const int64_t row = token * args.heads + blockIdx.y;
                    *reinterpret_cast<uint2*>(args.out + row * kEncodedDim + column) = numbers;
                  });
}

__global__ void __launch_bounds__(kThreads) encode_values_kernel(EncodeValues args) {
  begin_kernel();
  __shared__ alignas(16) TileRow tile[kTokens];
  for_each_vector(args, e4m3_factor(*args.scale),
                  [&](int64_t, int row, int column, const uint2& numbers) {
                    auto* to = reinterpret_cast<uint32_t*>(tile[row] + column);
                    to[0] = numbers.x;
                    to[1] = numbers.y;
                  });
  __syncthreads();
  constexpr int kGroups = kTokens / kKeysTogether;
  for (int i = static_cast<int>(threadIdx.x); i < kGroups * kEncodedDim; i += kThreads) {
    const int column = i / kGroups;
    const int first = i % kGroups * kKeysTogether;
    const int64_t key = static_cast<int64_t>(blockIdx.x) * kTokens + first;
    if (key >= args.keys) continue;
    alignas(16) uint8_t numbers[kKeysTogether];
#pragma unroll
    for (int j = 0; j < kKeysTogether; ++j) numbers[encoded_key(j)] = tile[first + j][column];
    const int64_t row = blockIdx.y * kEncodedDim + column;
    *reinterpret_cast<uint4*>(args.out + row * args.keys + key) =
        *reinterpret_cast<const uint4*>(numbers);
  }
}

template <typename Args>
cudaError_t launch(void (*kernel)(Args), const Args& args, cudaStream_t stream) {
  const dim3 blocks(blocks_for(args.tokens, kTokens), static_cast<unsigned>(args.heads));
  return launch_kernel(kernel, {blocks, kThreads, stream}, args);
}

}  // namespace

cudaError_t encode_heads(const EncodeHeads& args, cudaStream_t stream) {
  return launch(encode_heads_kernel, args, stream);
}

cudaError_t encode_values(const EncodeValues& args, cudaStream_t stream) {
  return launch(encode_values_kernel, args, stream);
}

}  // namespace flux::cuda
