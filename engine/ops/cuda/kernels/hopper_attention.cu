#include <cmath>

#include "ops/cuda/kernels/device.cuh"
#include "ops/cuda/kernels/hopper.cuh"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/kernels/launch.cuh"
#include "ops/cuda/kernels/tensor_map.h"

/// bf16 attention on Hopper, heads of 128. Source: Shah et al., FlashAttention-3 (2024). A block
/// takes 128 queries of one head after the other: a producer warp copies tiles of keys and values,
/// two warpgroups have 64 queries each and take turns, so that the products of one run while the
/// other computes its softmax; within one, the next scores are computed during the softmax of the
/// last. Where scores are known to be small exponents of two, weights are their powers as they are:
/// as f32 and bf16 are as exact for large and small weights, there are no maxima of rows then.
namespace flux::cuda {
namespace {

using namespace hopper;

constexpr int kDim = 128;
constexpr int kRows = 128;  // queries of a block
constexpr int kKeys = 192;  // of a tile: as many as registers and shared memory hold
constexpr int kStages = 2;
constexpr int kGroups = 2;  // warpgroups that compute
constexpr int kThreads = (1 + kGroups) * 128;
constexpr int kScores = kKeys / 2;                  // of a thread
constexpr int kRowBytes = 128;                      // of 64 columns
constexpr int kQueryBytes = 2 * kRows * kRowBytes;  // of a tile, its 64 columns after 64 columns
constexpr int kKeyBytes = 2 * kKeys * kRowBytes;
/// Up to which 2^score is small: so that sums of 2^15 of them times values up to 2^16 are finite.
constexpr float kSmallScore = 96.0f;

struct Tiles {
  unsigned char q[kQueryBytes];
  unsigned char k[kStages][kKeyBytes];
  unsigned char v[kStages][kKeyBytes];
  uint64_t q_full, q_empty;
  uint64_t k_full[kStages], k_empty[kStages];
  uint64_t v_full[kStages], v_empty[kStages];
};

struct Part {
  CUtensorMap q, k, v;  // [tokens, heads, dim]
  bf16* out;
  int64_t out_token_stride, out_head_stride;
  int q_tokens, k_tokens;
  int first_work;

  __host__ __device__ int q_tiles() const { return (q_tokens + kRows - 1) / kRows; }
  __device__ int k_tiles() const { return (k_tokens + kKeys - 1) / kKeys; }
};

struct Args {
  Part parts[kMaxAttentionParts];
  int count;
  int works;
  float scale_log2;
};

/// Some queries of a head.
struct Work {
  const Part& part;
  int head, row;

  __device__ static Work of(const Args& args, int index) {
    int at = 0;
    while (at + 1 < args.count && index >= args.parts[at + 1].first_work) ++at;
    const Part& part = args.parts[at];
    const int own = index - part.first_work;
    return {part, own / part.q_tiles(), own % part.q_tiles() * kRows};
  }
};

template <int kCount>
__device__ void copy_tile(unsigned char (&to)[kCount], const CUtensorMap& map, uint64_t* full,
                          int head, int row) {
  expect(full, kCount);
  copy_box(to, map, full, 0, head, row);
  copy_box(to + kCount / 2, map, full, 64, head, row);
}

/// One thread that copies everything.
[[maybe_unused]] __device__ void produce(const Args& args, Tiles& tiles) {
  Ring<kStages> ring;
  uint32_t q_parity = 0;
  for (int index = blockIdx.x; index < args.works; index += gridDim.x) {
    const Work work = Work::of(args, index);
    const Part& part = work.part;
    wait(&tiles.q_empty, q_parity ^ 1);
    copy_tile(tiles.q, part.q, &tiles.q_full, work.head, work.row);
    q_parity ^= 1;
    for (int tile = 0; tile < part.k_tiles(); ++tile) {
      wait(&tiles.k_empty[ring.stage], ring.parity ^ 1);
      copy_tile(tiles.k[ring.stage], part.k, &tiles.k_full[ring.stage], work.head, tile * kKeys);
      wait(&tiles.v_empty[ring.stage], ring.parity ^ 1);
      copy_tile(tiles.v[ring.stage], part.v, &tiles.v_full[ring.stage], work.head, tile * kKeys);
      ring.next();
    }
  }
}

/// The two rows of a thread, g and g + 8 of its warp's 16: this thread's share of the sum of
/// weights; and unless scores are taken as they are the largest, which is taken off them.
template <bool kPlain>
struct Softmax {
  float total[2] = {0.0f, 0.0f};
  float largest[2] = {-INFINITY, -INFINITY};
  float factors[2];  // what sums of earlier tiles shrink by

  /// Makes weights of a tile's scores.
  __device__ void take(float (&s)[kScores], float scale) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      [[maybe_unused]] float offset = 0.0f;
      if constexpr (!kPlain) {
        const float top = largest_of(s, half);
        factors[half] = fast_exp2((largest[half] - top) * scale);
        largest[half] = top;
        total[half] *= factors[half];
        offset = top * scale;
      }
      float sum = 0.0f;
#pragma unroll
      for (int j = 0; j < kScores / 4; ++j) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          float& value = s[4 * j + 2 * half + k];
          value = fast_exp2(kPlain ? value : value * scale - offset);
          sum += value;
        }
      }
      total[half] += sum;
    }
  }
  __device__ void shrink(float (&out)[64]) const {
    if constexpr (!kPlain) {
#pragma unroll
      for (int i = 0; i < 64; ++i) out[i] *= factors[i / 2 % 2];
    }
  }

 private:
  __device__ float largest_of(const float (&s)[kScores], int half) const {
    float top = largest[half];
#pragma unroll
    for (int j = 0; j < kScores / 4; ++j) {
      top = fmaxf(top, fmaxf(s[4 * j + 2 * half], s[4 * j + 2 * half + 1]));
    }
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    return fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
  }
};

[[maybe_unused]] __device__ void issue_scores(float (&s)[kScores], Described q, Described k) {
#pragma unroll
  for (int d = 0; d < kDim / 16; ++d) {
    const int half = d / 4 * kRowBytes;
    product(s, q.after(half * kRows + d % 4 * 32), k.after(half * kKeys + d % 4 * 32), d > 0);
  }
}

[[maybe_unused]] __device__ void issue_values(float (&out)[64], const uint32_t (&p)[kScores / 2],
                                              Described v) {
#pragma unroll
  for (int keys = 0; keys < kKeys / 16; ++keys) {
    product_columns(out, p + 4 * keys, v.after(keys * 16 * kRowBytes), true);
  }
}

/// Scores of keys beyond the last get no weight.
[[maybe_unused]] __device__ void mask(float (&s)[kScores], int keys) {
#pragma unroll
  for (int i = 0; i < kScores; ++i) {
    const int key = i / 4 * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + i % 2;
    if (key >= keys) s[i] = -INFINITY;
  }
}

[[maybe_unused]] __device__ void round_weights(const float (&s)[kScores],
                                               uint32_t (&p)[kScores / 2]) {
#pragma unroll
  for (int i = 0; i < kScores / 2; ++i) p[i] = pack_pair(s[2 * i], s[2 * i + 1]);
}

[[maybe_unused]] __device__ void release(uint64_t* empty) {
  if (threadIdx.x % 32 == 0) arrive(empty);
}

[[maybe_unused]] __device__ void store(const Work& work, int group, const float (&out)[64],
                                       const float (&totals)[2]) {
  const Part& part = work.part;
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int first = work.row + group * 64 + thread / 32 * 16 + thread % 32 / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float total = totals[half];
    total += __shfl_xor_sync(0xffffffffu, total, 1);
    total += __shfl_xor_sync(0xffffffffu, total, 2);
    const float factor = 1.0f / total;
    const int query = first + half * 8;
    bf16* row = part.out + query * part.out_token_stride + work.head * part.out_head_stride +
                thread % 4 * 8;
#pragma unroll
    for (int i = 0; i < kDim / 32; ++i) {
      uint32_t words[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float* pair = out + 16 * i + 4 * j + 2 * half;
        words[j] = pack_pair(pair[0] * factor, pair[1] * factor);
      }
      transpose_words(words);
      if (query >= part.q_tokens) continue;
      *reinterpret_cast<uint4*>(row + 32 * i) = make_uint4(words[0], words[1], words[2], words[3]);
    }
  }
}

/// A warpgroup's place in its rings, and its turns: named barrier 1 + group lets it start products.
template <bool kPlain>
struct Consumer {
  const Args& args;
  Tiles& tiles;
  int group;
  Ring<kStages> k_ring, v_ring;

  __device__ void begin_turn() const { sync_named(1 + group, 256); }
  /// The last turn of all is not handed on: nobody waits for it.
  __device__ void end_turn(bool last) const {
    if (group == 0 || !last) arrive_named(2 - group, 256);
  }
  __device__ void release_keys() {
    release(&tiles.k_empty[k_ring.stage]);
    k_ring.next();
  }
  __device__ void release_values() {
    release(&tiles.v_empty[v_ring.stage]);
    v_ring.next();
  }

  /// 64 queries against all keys.
  __device__ void run(int index, uint32_t q_parity) {
    const Work work = Work::of(args, index);
    const int count = work.part.k_tiles();
    const int last_keys = work.part.k_tokens - (count - 1) * kKeys;
    const bool last_work = index + static_cast<int>(gridDim.x) >= args.works;
    const Described q = Described::rows(tiles.q + group * 64 * kRowBytes);
    const Described first_k = Described::rows(tiles.k[0]);
    const Described first_v = Described::columns(tiles.v[0], kKeys * kRowBytes);
    float out[64] = {};
    float s[kScores];
    uint32_t p[kScores / 2];
    Softmax<kPlain> softmax;
    wait(&tiles.q_full, q_parity);
    wait(&tiles.k_full[k_ring.stage], k_ring.parity);
    begin_turn();
    begin_products();
    issue_scores(s, q, first_k.after(k_ring.stage * kKeyBytes));
    commit_products();
    end_turn(last_work && count == 1);
    wait_products<0>();
    pin(s);
    release_keys();
    if (count == 1) mask(s, last_keys);
    softmax.take(s, args.scale_log2);
    round_weights(s, p);
    if (count > 1) wait(&tiles.k_full[k_ring.stage], k_ring.parity);
    for (int tile = 1; tile < count; ++tile) {
      wait(&tiles.v_full[v_ring.stage], v_ring.parity);
      begin_turn();
      begin_products();
      issue_scores(s, q, first_k.after(k_ring.stage * kKeyBytes));
      commit_products();
      issue_values(out, p, first_v.after(v_ring.stage * kKeyBytes));
      commit_products();
      end_turn(last_work && tile + 1 == count);
      wait_products<1>();
      pin(s);
      release_keys();
      if (tile + 1 == count && last_keys < kKeys) mask(s, last_keys);
      softmax.take(s, args.scale_log2);
      // The assembler would wait for the values before it begins the softmax, but moves nothing
      // across a loop.
      pin(s);
      if (tile + 1 < count) wait(&tiles.k_full[k_ring.stage], k_ring.parity);
      wait_products<0>();
      pin(out);
      keep(p);
      release_values();
      softmax.shrink(out);
      round_weights(s, p);
    }
    release(&tiles.q_empty);
    wait(&tiles.v_full[v_ring.stage], v_ring.parity);
    begin_products();
    issue_values(out, p, first_v.after(v_ring.stage * kKeyBytes));
    commit_products();
    wait_products<0>();
    pin(out);
    keep(p);
    release_values();
    store(work, group, out, softmax.total);
  }
};

template <bool kPlain>
__device__ void consume(const Args& args, Tiles& tiles, int group) {
  Consumer<kPlain> consumer{args, tiles, group, {}, {}};
  uint32_t q_parity = 0;
  if (group == 1) arrive_named(1, 256);  // the first turn is group 0's
  for (int index = blockIdx.x; index < args.works; index += gridDim.x) {
    consumer.run(index, q_parity);
    q_parity ^= 1;
  }
}

[[maybe_unused]] __device__ void init_barriers(Tiles& tiles) {
  constexpr int kWarps = kGroups * 4;
  init_barrier(&tiles.q_full, 1);
  init_barrier(&tiles.q_empty, kWarps);
  for (int i = 0; i < kStages; ++i) {
    init_barrier(&tiles.k_full[i], 1);
    init_barrier(&tiles.k_empty[i], kWarps);
    init_barrier(&tiles.v_full[i], 1);
    init_barrier(&tiles.v_empty[i], kWarps);
  }
  fence_barriers();
}

template <bool kPlain>
__global__ void __launch_bounds__(kThreads, 1)
    hopper_attention_kernel(const __grid_constant__ Args args) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  auto& tiles = shared_tiles<Tiles>();
  if (threadIdx.x == 0) init_barriers(tiles);
  __syncthreads();
  begin_kernel();
  if (threadIdx.x < 128) {
    give_registers<24>();
    if (threadIdx.x == 0) produce(args, tiles);
  } else {
    take_registers<240>();
    consume<kPlain>(args, tiles, warpgroup() - 1);
  }
#endif
}

}  // namespace

bool hopper_attention_supports(const FlashAttention& args) {
  return args.dim == kDim && !args.causal && args.bias == nullptr && args.scale > 0.0f;
}

namespace {

cudaError_t add_part(const FlashAttention& from, Args& args) {
  Part& to = args.parts[args.count++];
  const auto map = [&](CUtensorMap& made, const void* address, const int64_t(&strides)[2],
                       int64_t tokens, int64_t rows) {
    return make_tensor_map(made, address, {kDim, from.heads, tokens}, {strides[1], strides[0]},
                           {64, 1, rows});
  };
  cudaError_t result = map(to.q, from.q, from.q_strides, from.q_tokens, kRows);
  if (result == cudaSuccess) result = map(to.k, from.k, from.k_strides, from.k_tokens, kKeys);
  if (result == cudaSuccess) result = map(to.v, from.v, from.v_strides, from.k_tokens, kKeys);
  to.out = static_cast<bf16*>(from.out);
  to.out_token_stride = from.out_strides[0];
  to.out_head_stride = from.out_strides[1];
  to.q_tokens = static_cast<int>(from.q_tokens);
  to.k_tokens = static_cast<int>(from.k_tokens);
  to.first_work = args.works;
  args.works += to.q_tiles() * static_cast<int>(from.heads);
  return result;
}

}  // namespace

cudaError_t hopper_attention(std::span<const FlashAttention> parts, int multiprocessors,
                             cudaStream_t stream) {
  Args args{};
  args.scale_log2 = parts[0].scale * kLog2E;
  for (const FlashAttention& part : parts) {
    const cudaError_t result = add_part(part, args);
    if (result != cudaSuccess) return result;
  }
  constexpr int kShared = sizeof(Tiles) + 1024;
  const auto blocks = static_cast<unsigned>(std::min(args.works, multiprocessors));
  const bool plain = args.scale_log2 == 1.0f && parts[0].largest_score * kLog2E <= kSmallScore;
  return launch_kernel(plain ? hopper_attention_kernel<true> : hopper_attention_kernel<false>,
                       {blocks, kThreads, stream, kShared}, args);
}

}  // namespace flux::cuda
