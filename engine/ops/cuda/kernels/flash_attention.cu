#include <cfloat>

#include "ops/cuda/kernels/device.cuh"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/kernels/launch.cuh"

/// bf16 attention for every GPU since Ampere. Source: Dao, FlashAttention-2 (2023). A block
/// computes kRows queries of one head, 16 a warp, and walks over the keys in tiles; the copy of the
/// next tile runs while one is computed. A tile that all queries see whole is not masked.
namespace flux::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kRows = kWarps * 16;
constexpr int kKeys = 64;  // of a tile
/// Biases of a tile of queries and one of keys: kRows + kKeys - 1, and one of padding.
constexpr int kBias = kRows + kKeys;

__device__ void copy_async(uint32_t to, const void* from, bool there) {
  const int bytes = there ? 16 : 0;  // the rest is filled with zeros
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(bytes));
}
__device__ void copy_float_async(uint32_t to, const float* from, bool there) {
  const int bytes = there ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(to), "l"(from), "r"(bytes));
}
__device__ void commit_copies() { asm volatile("cp.async.commit_group;\n" ::); }
template <int kPending>
__device__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending));
}

__device__ void load_matrices(uint32_t (&r)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from));
}
__device__ void load_matrices_transposed(uint32_t (&r)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from));
}
/// c += a b for a 16 x 16, b 16 x 8.
__device__ void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Byte offset of 16-byte chunk `chunk` of row `row` in a tile of rows of kDim; the chunks of
/// neighbouring rows change places so that matrix loads meet no bank twice.
template <int kDim>
__device__ uint32_t tile_offset(int row, int chunk) {
  return static_cast<uint32_t>(row * kDim * 2 + ((chunk ^ (row & 7)) * 16));
}

/// Copies rows [first, first + kCount) of one head to shared memory, zeros beyond `rows`.
template <int kDim, int kCount>
__device__ void load_tile(uint32_t to, const bf16* from, int64_t stride, int64_t first,
                          int64_t rows) {
  constexpr int kChunks = kDim / 8;
  for (int i = threadIdx.x; i < kCount * kChunks; i += kThreads) {
    const int row = i / kChunks;
    const int chunk = i % kChunks;
    const bool there = first + row < rows;
    const bf16* source = from + (there ? first + row : 0) * stride + chunk * 8;
    copy_async(to + tile_offset<kDim>(row, chunk), source, there);
  }
}

/// Copies a head's biases of the queries from first_query on and keys from first_key on: entry
/// key - query + kRows - 1, both counted from there. Zeros for keys and queries beyond the last.
__device__ void load_bias(uint32_t to, const float* from, const FlashAttention& args,
                          int64_t first_query, int64_t first_key) {
  const int64_t entries = args.q_tokens + args.k_tokens - 1;
  const int64_t first = first_key - first_query - (kRows - 1) + args.q_tokens - 1;
  for (int i = threadIdx.x; i < kBias; i += kThreads) {
    const bool there = first + i >= 0 && first + i < entries;
    copy_float_async(to + 4 * i, from + (there ? first + i : 0), there);
  }
}

/// The running softmax of two rows of a thread: g and g + 8 of its warp's 16.
template <int kDim>
struct Accumulator {
  float out[kDim / 8][4];
  float largest[2];
  float total[2];  // of this thread's columns
};

/// Scores of one tile of keys: s[j] for keys 8 j + 2 t and the next.
template <int kDim>
__device__ void make_scores(float (&s)[kKeys / 8][4], uint32_t q, uint32_t k) {
  const int lane = threadIdx.x % 32;
  const int q_row = static_cast<int>(threadIdx.x) / 32 * 16 + lane % 16;
  const int k_row = lane / 16 * 8 + lane % 8;
#pragma unroll
  for (int d = 0; d < kDim / 16; ++d) {
    uint32_t a[4];
    load_matrices(a, q + tile_offset<kDim>(q_row, 2 * d + lane / 16));
#pragma unroll
    for (int j = 0; j < kKeys / 16; ++j) {
      uint32_t b[4];
      load_matrices(b, k + tile_offset<kDim>(16 * j + k_row, 2 * d + lane / 8 % 2));
      multiply_add(s[2 * j], a, b[0], b[1]);
      multiply_add(s[2 * j + 1], a, b[2], b[3]);
    }
  }
}

/// The first query of this thread, within its block, and its first key, within a tile.
__device__ int own_query() {
  return static_cast<int>(threadIdx.x) / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4;
}
__device__ int own_key() { return static_cast<int>(threadIdx.x) % 4 * 2; }

/// Scales the scores to exponents of two and adds the tile's biases, unless `bias` is null.
__device__ void scale_scores(float (&s)[kKeys / 8][4], float scale, const float* bias) {
  const float factor = scale * kLog2E;
#pragma unroll
  for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s[j][i] *= factor;
  }
  if (bias == nullptr) return;
  const float* own = bias + own_key() - own_query() + kRows - 1;
#pragma unroll
  for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s[j][i] += own[8 * j + i % 2 - i / 2 * 8] * kLog2E;
  }
}

/// Masks keys from `keys` on and, where causal, those after a query's own. first: the position of
/// the block's first query, counted from the tile's first key.
__device__ void mask_scores(float (&s)[kKeys / 8][4], int keys, bool causal, int first) {
#pragma unroll
  for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = 8 * j + own_key() + i % 2;
      const int query = first + own_query() + i / 2 * 8;
      if (key >= keys || (causal && key > query)) s[j][i] = -FLT_MAX;
    }
  }
}

/// Adds a tile's scores to the running softmax and turns them into weights.
template <int kDim>
__device__ void update_softmax(float (&s)[kKeys / 8][4], Accumulator<kDim>& acc) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float largest = acc.largest[half];
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
      largest = fmaxf(largest, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
    }
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
    const float shrink = fast_exp2(acc.largest[half] - largest);
    acc.largest[half] = largest;
    float total = 0.0f;
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        s[j][i] = fast_exp2(s[j][i] - largest);
        total += s[j][i];
      }
    }
    acc.total[half] = acc.total[half] * shrink + total;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      acc.out[n][2 * half] *= shrink;
      acc.out[n][2 * half + 1] *= shrink;
    }
  }
}

template <int kDim>
__device__ void add_values(const float (&s)[kKeys / 8][4], uint32_t v, Accumulator<kDim>& acc) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < kKeys / 16; ++j) {
    const uint32_t a[4] = {pack_pair(s[2 * j][0], s[2 * j][1]), pack_pair(s[2 * j][2], s[2 * j][3]),
                           pack_pair(s[2 * j + 1][0], s[2 * j + 1][1]),
                           pack_pair(s[2 * j + 1][2], s[2 * j + 1][3])};
#pragma unroll
    for (int n = 0; n < kDim / 16; ++n) {
      uint32_t b[4];
      load_matrices_transposed(b, v + tile_offset<kDim>(16 * j + lane % 16, 2 * n + lane / 16));
      multiply_add(acc.out[2 * n], a, b[0], b[1]);
      multiply_add(acc.out[2 * n + 1], a, b[2], b[3]);
    }
  }
}

template <int kDim>
__device__ void store_result(const FlashAttention& args, int64_t head, int64_t first_query,
                             Accumulator<kDim>& acc) {
  auto* out = static_cast<bf16*>(args.out) + head * args.out_strides[1];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float total = acc.total[half];
    total += __shfl_xor_sync(0xffffffffu, total, 1);
    total += __shfl_xor_sync(0xffffffffu, total, 2);
    const float factor = 1.0f / total;
    const int64_t query = first_query + half * 8;
    if (query >= args.q_tokens) continue;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      auto* to = reinterpret_cast<uint32_t*>(out + query * args.out_strides[0] + 8 * n + own_key());
      *to = pack_pair(acc.out[n][2 * half] * factor, acc.out[n][2 * half + 1] * factor);
    }
  }
}

constexpr int kBiasBytes = kBias * 4;
template <int kDim>
constexpr int kTileBytes = (kRows + 4 * kKeys) * kDim * 2;  // queries; keys and values twice

template <int kDim>
__global__ void __launch_bounds__(kThreads, kDim == 64 ? 2 : 1) flash_kernel(FlashAttention args) {
  begin_kernel();
  extern __shared__ __align__(128) unsigned char shared[];
  const auto q_tile = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  constexpr uint32_t kKeyBytes = kKeys * kDim * 2;
  const auto k_tile = [&](int64_t i) { return q_tile + kRows * kDim * 2 + i % 2 * 2 * kKeyBytes; };
  const auto v_tile = [&](int64_t i) { return k_tile(i) + kKeyBytes; };
  const int64_t head = blockIdx.y;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kRows;
  const auto bias_tile = [&](int64_t i) {
    return args.bias ? reinterpret_cast<const float*>(shared + kTileBytes<kDim>) + i % 2 * kBias
                     : nullptr;
  };
  const float* bias = args.bias;
  if (bias) bias += head * (args.q_tokens + args.k_tokens - 1);
  const auto* q = static_cast<const bf16*>(args.q) + head * args.q_strides[1];
  const auto* k = static_cast<const bf16*>(args.k) + head * args.k_strides[1];
  const auto* v = static_cast<const bf16*>(args.v) + head * args.v_strides[1];
  const int64_t keys = args.causal ? min(args.k_tokens, first_row + kRows) : args.k_tokens;
  const int64_t tiles = (keys + kKeys - 1) / kKeys;
  const auto load = [&](int64_t i) {
    load_tile<kDim, kKeys>(static_cast<uint32_t>(k_tile(i)), k, args.k_strides[0], i * kKeys,
                           args.k_tokens);
    load_tile<kDim, kKeys>(static_cast<uint32_t>(v_tile(i)), v, args.v_strides[0], i * kKeys,
                           args.k_tokens);
    if (bias) {
      load_bias(static_cast<uint32_t>(q_tile + kTileBytes<kDim> + i % 2 * kBiasBytes), bias, args,
                first_row, i * kKeys);
    }
    commit_copies();
  };
  load_tile<kDim, kRows>(q_tile, q, args.q_strides[0], first_row, args.q_tokens);
  load(0);

  Accumulator<kDim> acc{};
  acc.largest[0] = acc.largest[1] = -FLT_MAX;
  for (int64_t i = 0; i < tiles; ++i) {
    if (i + 1 < tiles) {
      load(i + 1);
      wait_copies<1>();
    } else {
      wait_copies<0>();
    }
    __syncthreads();
    float s[kKeys / 8][4] = {};
    make_scores<kDim>(s, q_tile, static_cast<uint32_t>(k_tile(i)));
    scale_scores(s, args.scale, bias_tile(i));
    const auto left = static_cast<int>(min(args.k_tokens - i * kKeys, int64_t{kKeys}));
    const auto before = static_cast<int>(first_row - i * kKeys);
    const bool seen_whole = left == kKeys && (!args.causal || before >= kKeys - 1);
    if (!seen_whole) mask_scores(s, left, args.causal, before);
    update_softmax<kDim>(s, acc);
    add_values<kDim>(s, static_cast<uint32_t>(v_tile(i)), acc);
    __syncthreads();  // the tile may be overwritten
  }
  store_result<kDim>(args, head, first_row + own_query(), acc);
}

template <int kDim>
cudaError_t run(const FlashAttention& args, cudaStream_t stream) {
  const dim3 grid(blocks_for(args.q_tokens, kRows), static_cast<unsigned>(args.heads));
  constexpr int kShared = kTileBytes<kDim> + 2 * kBiasBytes;
  return launch_kernel(flash_kernel<kDim>, {grid, kThreads, stream, kShared}, args);
}

}  // namespace

bool flash_supports(int64_t dim) { return dim == 64 || dim == 128; }

cudaError_t flash_attention(const FlashAttention& args, cudaStream_t stream) {
  if (args.q_tokens == 0) return cudaSuccess;
  return args.dim == 64 ? run<64>(args, stream) : run<128>(args, stream);
}

}  // namespace flux::cuda
