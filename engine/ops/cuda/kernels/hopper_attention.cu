#include <cmath>

#include "ops/cuda/kernels/device.cuh"
#include "ops/cuda/kernels/hopper.cuh"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/kernels/launch.cuh"
#include "ops/cuda/kernels/tensor_map.h"

/// bf16 attention on Hopper, heads of 128. Source: Shah et al., FlashAttention-3 (2024). A block
/// takes work items of 128 queries of one head: a producer warp copies tiles of keys and values,
/// and two consumer warpgroups of 64 queries each alternate (ping-pong), so that the products of
/// one run while the other computes its softmax; within a warpgroup, the next scores are computed
/// during the softmax of the last. There is a variant without the maxima of rows; AttentionOptions
/// says when.
namespace flux::cuda {
namespace {

using namespace hopper;

constexpr int kDim = 128;
constexpr int kRows = 128;  // queries of a block
constexpr int kKeys = 192;  // of a tile: as many as registers and shared memory hold
constexpr int kStages = 2;
constexpr int kGroups = 2;  // consumer warpgroups
constexpr int kThreads = (1 + kGroups) * 128;
constexpr int kScores = kKeys / 2;                  // of a thread
constexpr int kRowBytes = 128;                      // of 64 columns
constexpr int kQueryBytes = 2 * kRows * kRowBytes;  // of a tile, its 64 columns after 64 columns
constexpr int kKeyBytes = 2 * kKeys * kRowBytes;
/// Largest score for which 2^score needs no maximum taken off it: sums of 2^15 such weights times
/// values up to 2^16 are finite.
constexpr float kSmallScore = 96.0f;

struct SharedTiles {
  unsigned char q[kQueryBytes];
  unsigned char k[kStages][kKeyBytes];
  unsigned char v[kStages][kKeyBytes];
  uint64_t q_full, q_empty;
  uint64_t k_full[kStages], k_empty[kStages];
  uint64_t v_full[kStages], v_empty[kStages];
};

struct Segment {
  CUtensorMap q, k, v;  // [tokens, heads, dim]
  void* out;            // bf16, or e4m3 where there are scales
  int64_t out_token_stride, out_head_stride;
  const float* out_scales;
  int64_t out_scales_stride;
  int q_tokens, k_tokens;
  int first_item;

  __host__ __device__ int q_tiles() const { return (q_tokens + kRows - 1) / kRows; }
  __device__ int k_tiles() const { return (k_tokens + kKeys - 1) / kKeys; }
};

struct Args {
  Segment segments[kMaxAttentionSegments];
  int count;
  int items;
  float scale_log2;
};

/// A work item: kRows queries of a head, from `row` on.
struct WorkItem {
  const Segment& segment;
  int head, row;

  __device__ static WorkItem of(const Args& args, int index) {
    int at = 0;
    while (at + 1 < args.count && index >= args.segments[at + 1].first_item) ++at;
    const Segment& segment = args.segments[at];
    const int own = index - segment.first_item;
    return {segment, own / segment.q_tiles(), own % segment.q_tiles() * kRows};
  }
};

template <int kCount>
__device__ void copy_tile(unsigned char (&to)[kCount], const CUtensorMap& map, uint64_t* full,
                          int head, int row) {
  expect(full, kCount);
  copy_box(to, map, full, 0, head, row);
  copy_box(to + kCount / 2, map, full, 64, head, row);
}

/// The producer thread: copies all queries, keys and values of the block's items.
[[maybe_unused]] __device__ void produce(const Args& args, SharedTiles& tiles) {
  Ring<kStages> ring;
  uint32_t q_parity = 0;
  for (int index = blockIdx.x; index < args.items; index += gridDim.x) {
    const WorkItem item = WorkItem::of(args, index);
    const Segment& segment = item.segment;
    wait(&tiles.q_empty, q_parity ^ 1);
    copy_tile(tiles.q, segment.q, &tiles.q_full, item.head, item.row);
    q_parity ^= 1;
    for (int tile = 0; tile < segment.k_tiles(); ++tile) {
      wait(&tiles.k_empty[ring.stage], ring.parity ^ 1);
      copy_tile(tiles.k[ring.stage], segment.k, &tiles.k_full[ring.stage], item.head, tile * kKeys);
      wait(&tiles.v_empty[ring.stage], ring.parity ^ 1);
      copy_tile(tiles.v[ring.stage], segment.v, &tiles.v_full[ring.stage], item.head, tile * kKeys);
      ring.next();
    }
  }
}

/// Whether scores are exponents of two as they are, or are scaled and have their row's maximum
/// taken off.
enum class ScoreKind { kScaled, kPlain };

/// The softmax of a thread's two rows, t / 4 and t / 4 + 8 of its warp's 16 for lane t: its part of
/// the sums of weights and, where there are maxima, the largest scores so far.
template <ScoreKind kKind>
struct Softmax {
  float total[2] = {0.0f, 0.0f};
  float largest[2] = {-INFINITY, -INFINITY};
  float factors[2];  // for the sums of earlier tiles

  /// Turns a tile's scores into weights.
  __device__ void take(float (&s)[kScores], float scale) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      [[maybe_unused]] float offset = 0.0f;
      if constexpr (kKind == ScoreKind::kScaled) {
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
          value = fast_exp2(kKind == ScoreKind::kPlain ? value : value * scale - offset);
          sum += value;
        }
      }
      total[half] += sum;
    }
  }
  __device__ void shrink(float (&out)[64]) const {
    if constexpr (kKind == ScoreKind::kScaled) {
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

[[maybe_unused]] __device__ void issue_scores(float (&s)[kScores], Descriptor q, Descriptor k) {
#pragma unroll
  for (int d = 0; d < kDim / 16; ++d) {
    const int half = d / 4 * kRowBytes;
    product(s, q.after(half * kRows + d % 4 * 32), k.after(half * kKeys + d % 4 * 32), d > 0);
  }
}

[[maybe_unused]] __device__ void issue_values(float (&out)[64], const uint32_t (&p)[kScores / 2],
                                              Descriptor v) {
#pragma unroll
  for (int keys = 0; keys < kKeys / 16; ++keys) {
    product_columns(out, p + 4 * keys, v.after(keys * 16 * kRowBytes), true);
  }
}

/// Masks the scores of keys from `keys` on.
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

[[maybe_unused]] __device__ void store(const WorkItem& item, int group, const float (&out)[64],
                                       const float (&totals)[2]) {
  const Segment& segment = item.segment;
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int first = item.row + group * 64 + thread / 32 * 16 + thread % 32 / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float total = totals[half];
    total += __shfl_xor_sync(0xffffffffu, total, 1);
    total += __shfl_xor_sync(0xffffffffu, total, 2);
    const float factor = 1.0f / total;
    const int query = first + half * 8;
    const int64_t at =
        query * segment.out_token_stride + item.head * segment.out_head_stride + thread % 4 * 8;
    float encoding = 0.0f;  // the factor of e4m3
    if (segment.out_scales != nullptr && query < segment.q_tokens) {
      encoding = e4m3_factor(segment.out_scales[query * segment.out_scales_stride]);
    }
#pragma unroll
    for (int i = 0; i < kDim / 32; ++i) {
      uint32_t words[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float* pair = out + 16 * i + 4 * j + 2 * half;
        words[j] = pack_pair(pair[0] * factor, pair[1] * factor);
      }
      transpose_words(words);
      if (query >= segment.q_tokens) continue;
      if (segment.out_scales != nullptr) {
        store_as_e4m3(unpack_words(words), encoding,
                      static_cast<uint8_t*>(segment.out) + at + 32 * i);
      } else {
        *reinterpret_cast<uint4*>(static_cast<bf16*>(segment.out) + at + 32 * i) =
            make_uint4(words[0], words[1], words[2], words[3]);
      }
    }
  }
}

/// A thread of a consumer warpgroup. The warpgroups alternate in issuing products: named barrier
/// 1 + group lets a group start.
template <ScoreKind kKind>
struct Consumer {
  const Args& args;
  SharedTiles& tiles;
  int group;
  Ring<kStages> k_ring, v_ring;

  __device__ void wait_for_other() const { sync_named(1 + group, 256); }
  /// After the last products of all, nobody waits for group 1.
  __device__ void let_other_start(bool last) const {
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
    const WorkItem item = WorkItem::of(args, index);
    const int count = item.segment.k_tiles();
    const int last_keys = item.segment.k_tokens - (count - 1) * kKeys;
    const bool last_item = index + static_cast<int>(gridDim.x) >= args.items;
    const Descriptor q = Descriptor::rows(tiles.q + group * 64 * kRowBytes);
    const Descriptor first_k = Descriptor::rows(tiles.k[0]);
    const Descriptor first_v = Descriptor::columns(tiles.v[0], kKeys * kRowBytes);
    float out[64] = {};
    float s[kScores];
    uint32_t p[kScores / 2];
    Softmax<kKind> softmax;
    wait(&tiles.q_full, q_parity);
    wait(&tiles.k_full[k_ring.stage], k_ring.parity);
    wait_for_other();
    begin_products();
    issue_scores(s, q, first_k.after(k_ring.stage * kKeyBytes));
    commit_products();
    let_other_start(last_item && count == 1);
    wait_products<0>();
    pin(s);
    release_keys();
    if (count == 1) mask(s, last_keys);
    softmax.take(s, args.scale_log2);
    round_weights(s, p);
    if (count > 1) wait(&tiles.k_full[k_ring.stage], k_ring.parity);
    for (int tile = 1; tile < count; ++tile) {
      wait(&tiles.v_full[v_ring.stage], v_ring.parity);
      wait_for_other();
      begin_products();
      issue_scores(s, q, first_k.after(k_ring.stage * kKeyBytes));
      commit_products();
      issue_values(out, p, first_v.after(v_ring.stage * kKeyBytes));
      commit_products();
      let_other_start(last_item && tile + 1 == count);
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
    store(item, group, out, softmax.total);
  }
};

template <ScoreKind kKind>
__device__ void consume(const Args& args, SharedTiles& tiles, int group) {
  Consumer<kKind> consumer{args, tiles, group, {}, {}};
  uint32_t q_parity = 0;
  if (group == 1) arrive_named(1, 256);  // group 0 starts
  for (int index = blockIdx.x; index < args.items; index += gridDim.x) {
    consumer.run(index, q_parity);
    q_parity ^= 1;
  }
}

[[maybe_unused]] __device__ void init_barriers(SharedTiles& tiles) {
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

template <ScoreKind kKind>
__global__ void __launch_bounds__(kThreads, 1)
    hopper_attention_kernel(const __grid_constant__ Args args) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  auto& tiles = shared_tiles<SharedTiles>();
  if (threadIdx.x == 0) init_barriers(tiles);
  __syncthreads();
  begin_kernel();
  if (threadIdx.x < 128) {
    give_registers<24>();
    if (threadIdx.x == 0) produce(args, tiles);
  } else {
    take_registers<240>();
    consume<kKind>(args, tiles, warpgroup() - 1);
  }
#endif
}

}  // namespace

bool hopper_attention_supports(const FlashAttention& args) {
  return args.dim == kDim && !args.causal && args.bias == nullptr && args.scale > 0.0f;
}

namespace {

cudaError_t add_segment(const FlashAttention& from, Args& args) {
  Segment& to = args.segments[args.count++];
  const auto map = [&](CUtensorMap& made, const void* address, const int64_t(&strides)[2],
                       int64_t tokens, int64_t rows) {
    return make_tensor_map(made, MapElement::kBf16, address, {kDim, from.heads, tokens},
                           {strides[1], strides[0]}, {64, 1, rows});
  };
  cudaError_t result = map(to.q, from.q, from.q_strides, from.q_tokens, kRows);
  if (result == cudaSuccess) result = map(to.k, from.k, from.k_strides, from.k_tokens, kKeys);
  if (result == cudaSuccess) result = map(to.v, from.v, from.v_strides, from.k_tokens, kKeys);
  to.out = from.out;
  to.out_scales = from.out_scales;
  to.out_scales_stride = from.out_scales_stride;
  to.out_token_stride = from.out_strides[0];
  to.out_head_stride = from.out_strides[1];
  to.q_tokens = static_cast<int>(from.q_tokens);
  to.k_tokens = static_cast<int>(from.k_tokens);
  to.first_item = args.items;
  args.items += to.q_tiles() * static_cast<int>(from.heads);
  return result;
}

}  // namespace

cudaError_t hopper_attention(std::span<const FlashAttention> segments, int multiprocessors,
                             cudaStream_t stream) {
  Args args{};
  args.scale_log2 = segments[0].scale * kLog2E;
  for (const FlashAttention& segment : segments) {
    const cudaError_t result = add_segment(segment, args);
    if (result != cudaSuccess) return result;
  }
  constexpr int kShared = sizeof(SharedTiles) + 1024;
  const auto blocks = static_cast<unsigned>(std::min(args.items, multiprocessors));
  const FlashAttention& first = segments[0];
  const bool plain =
      first.base == ScoreBase::kTwo && first.bound.value_or(INFINITY) * kLog2E <= kSmallScore;
  return launch_kernel(plain ? hopper_attention_kernel<ScoreKind::kPlain>
                             : hopper_attention_kernel<ScoreKind::kScaled>,
                       {blocks, kThreads, stream, kShared}, args);
}

}  // namespace flux::cuda
