#include "ops/cuda/kernels/device.cuh"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/kernels/launch.cuh"

/// Queries, keys and values of bf16 to e4m3, for hopper_attention(). A block takes kTokens tokens
/// of one head of one of them.
namespace flux::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTokens = 64;
constexpr int kValues = 8;  // that a thread loads at once
constexpr int kLoads = kTokens * kEncodedDim / kValues / kThreads;
constexpr int kKeysTogether = 16;

/// A row of the block's tile, padded so that columns lie in different banks.
using TileRow = uint8_t[kEncodedDim + 4];

/// Calls f(row, column, numbers) for the vectors of the tile that are this thread's: zeros after
/// the last token and after `dim`.
template <typename F>
__device__ void for_each_vector(const bf16* x, const int64_t (&strides)[2], int64_t tokens,
                                const EncodeHeads& args, float factor, const F& f) {
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int at = (i * kThreads + static_cast<int>(threadIdx.x)) * kValues;
    const int row = at / static_cast<int>(kEncodedDim);
    const int column = at % static_cast<int>(kEncodedDim);
    const int64_t token = static_cast<int64_t>(blockIdx.x) * kTokens + row;
    Pack<float, kValues> values{};
    if (token < tokens && column < args.dim) {
      const bf16* from = x + token * strides[0] + blockIdx.y * strides[1] + column;
      values =
          unpack_words(Pack<uint32_t, 4>::load(reinterpret_cast<const uint32_t*>(from)).values);
    }
    alignas(8) uint8_t numbers[kValues];
    store_as_e4m3(values, factor, numbers);
    f(token, row, column, numbers);
  }
}

__device__ void encode_rows(const void* x, const int64_t (&strides)[2], int64_t tokens, float scale,
                            const EncodeHeads& args, uint8_t* out) {
  for_each_vector(static_cast<const bf16*>(x), strides, tokens, args, e4m3_factor(scale),
                  [&](int64_t token, int, int column, const uint8_t(&numbers)[kValues]) {
                    if (token >= tokens) return;
                    const int64_t row = token * args.heads + blockIdx.y;
                    *reinterpret_cast<uint2*>(out + row * kEncodedDim + column) =
                        *reinterpret_cast<const uint2*>(numbers);
                  });
}

__device__ void encode_values(const EncodeHeads& args, TileRow (&tile)[kTokens]) {
  for_each_vector(static_cast<const bf16*>(args.v), args.v_strides, args.k_tokens, args,
                  e4m3_factor(*args.v_scale),
                  [&](int64_t, int row, int column, const uint8_t(&numbers)[kValues]) {
                    auto* to = reinterpret_cast<uint32_t*>(tile[row] + column);
                    to[0] = reinterpret_cast<const uint32_t*>(numbers)[0];
                    to[1] = reinterpret_cast<const uint32_t*>(numbers)[1];
                  });
  __syncthreads();
  constexpr int kGroups = kTokens / kKeysTogether;
  for (int i = static_cast<int>(threadIdx.x); i < kGroups * kEncodedDim; i += kThreads) {
    const int column = i / kGroups;
    const int first = i % kGroups * kKeysTogether;
    const int64_t key = static_cast<int64_t>(blockIdx.x) * kTokens + first;
    if (key >= args.v_keys) continue;
    alignas(16) uint8_t numbers[kKeysTogether];
#pragma unroll
    for (int j = 0; j < kKeysTogether; ++j) numbers[encoded_key(j)] = tile[first + j][column];
    const int64_t row = blockIdx.y * kEncodedDim + column;
    *reinterpret_cast<uint4*>(args.encoded_v + row * args.v_keys + key) =
        *reinterpret_cast<const uint4*>(numbers);
  }
}

__global__ void __launch_bounds__(kThreads) encode_heads_kernel(EncodeHeads args) {
  begin_kernel();
  __shared__ alignas(16) TileRow tile[kTokens];
  if (blockIdx.z == 0) {
    encode_rows(args.q, args.q_strides, args.q_tokens, args.q_scale, args, args.encoded_q);
  } else if (blockIdx.z == 1) {
    encode_rows(args.k, args.k_strides, args.k_tokens, args.k_scale, args, args.encoded_k);
  } else {
    encode_values(args, tile);
  }
}

}  // namespace

cudaError_t encode_heads(const EncodeHeads& args, cudaStream_t stream) {
  const int64_t tokens = args.q_tokens > args.k_tokens ? args.q_tokens : args.k_tokens;
  const dim3 blocks(blocks_for(tokens, kTokens), static_cast<unsigned>(args.heads), 3);
  return launch_kernel(encode_heads_kernel, {blocks, kThreads, stream}, args);
}

}  // namespace flux::cuda
