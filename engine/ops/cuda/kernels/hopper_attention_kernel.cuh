#pragma once

#include <cmath>

#include "ops/cuda/kernels/device.cuh"
#include "ops/cuda/kernels/hopper.cuh"
#include "ops/cuda/kernels/hopper_attention_launch.h"
#include "ops/cuda/kernels/launch.cuh"
#include "ops/cuda/kernels/tensor_map.h"

/// Attention on Hopper, heads of 128. Source: Shah et al., FlashAttention-3 (2024). A block
/// takes work items of 128 queries of one head: a producer warp copies tiles of keys and values,
/// and two consumer warpgroups of 64 queries each alternate (ping-pong), so that the products of
/// one run while the other computes its softmax; within a warpgroup, the next scores are computed
/// during the softmax of the last. What differs between bf16 and e4m3 is in a type Heads: the tiles
/// in shared memory and the products. There is a variant without the maxima of rows;
/// AttentionOptions says when.
namespace flux::cuda::hopper::attention {

constexpr int kDim = 128;
constexpr int kRows = 128;  // queries of a block
constexpr int kKeys = 192;  // of a tile: as many as registers and shared memory hold
constexpr int kGroups = 2;  // consumer warpgroups
constexpr int kThreads = (1 + kGroups) * 128;
constexpr int kScores = kKeys / 2;  // of a thread
constexpr int kRowBytes = 128;      // of a tile of queries or keys

template <typename Heads>
struct SharedTiles {
  unsigned char q[Heads::kQueryBytes];
  unsigned char k[Heads::kStages][Heads::kKeyBytes];
  unsigned char v[Heads::kStages][Heads::kKeyBytes];
  uint64_t q_full, q_empty;
  uint64_t k_full[Heads::kStages], k_empty[Heads::kStages];
  uint64_t v_full[Heads::kStages], v_empty[Heads::kStages];
};

struct Segment {
  CUtensorMap q, k, v;  // q, k: [tokens, heads, dim]; v: the same, or as its Heads have it
  void* out;            // bf16, or e4m3 where there are scales
  int64_t out_token_stride, out_head_stride;
  const float* out_scales;
  int64_t out_scales_stride;
  const float* v_scale;  // of e4m3: [1]
  int q_tokens, k_tokens;
  int first_item;

  __host__ __device__ int q_tiles() const { return (q_tokens + kRows - 1) / kRows; }
  __device__ int k_tiles() const { return (k_tokens + kKeys - 1) / kKeys; }
};

struct Args {
  Segment segments[kMaxAttentionSegments];
  int count;
  int items;
  int dim;  // of out: kDim, or fewer of it
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

/// The producer thread: copies all queries, keys and values of the block's items.
template <typename Heads>
__device__ void produce(const Args& args, SharedTiles<Heads>& tiles) {
  Ring<Heads::kStages> ring;
  uint32_t q_parity = 0;
  for (int index = blockIdx.x; index < args.items; index += gridDim.x) {
    const WorkItem item = WorkItem::of(args, index);
    const Segment& segment = item.segment;
    wait(&tiles.q_empty, q_parity ^ 1);
    Heads::copy_queries(tiles.q, segment.q, &tiles.q_full, item.head, item.row);
    q_parity ^= 1;
    for (int tile = 0; tile < segment.k_tiles(); ++tile) {
      wait(&tiles.k_empty[ring.stage], ring.parity ^ 1);
      Heads::copy_keys(tiles.k[ring.stage], segment.k, &tiles.k_full[ring.stage], item.head,
                       tile * kKeys);
      wait(&tiles.v_empty[ring.stage], ring.parity ^ 1);
      Heads::copy_values(tiles.v[ring.stage], segment.v, &tiles.v_full[ring.stage], item.head,
                         tile * kKeys);
      ring.next();
    }
  }
}

/// How weights, powers of two, come from scores.
enum class ScoreKind {
  kPlain,    // scores are the exponents
  kBounded,  // scores are scaled and less by an offset; none exceeds kBound in size
  kAny,      // the same, however large they are
};
/// Twice as large a power is finite.
constexpr float kBound = 60.0f;

/// The softmax of a thread's two rows, t / 4 and t / 4 + 8 of its warp's 16 for lane t: its part of
/// the sums of weights and, unless scores are plain, the rows' offsets. The first tile sets the
/// offset so that the row's largest exponent is kUsual; it rises only where one exceeds kMost. So
/// hardly a tile needs to scale what was summed before, or waits for the lanes of a row to agree.
template <typename Heads, ScoreKind kKind>
struct Softmax {
  float total[2] = {0.0f, 0.0f};
  float offset[2] = {0.0f, 0.0f};
  float factors[2];   // for the sums of earlier tiles
  bool risen = true;  // whether one of the warp's is not 1

  /// Turns a tile's scores into weights.
  template <bool kFirst>
  __device__ __forceinline__ void take(float (&s)[kScores], float scale) {
    risen = false;
    if constexpr (kKind == ScoreKind::kAny) {
      float tops[2][2] = {{-INFINITY, -INFINITY}, {-INFINITY, -INFINITY}};
#pragma unroll
      for (int i = 0; i < kScores; ++i) {
        s[i] = s[i] * scale - offset[row_of(i)];
        tops[row_of(i)][i % 2] = fmaxf(tops[row_of(i)][i % 2], s[i]);
      }
      const float2 top = largest_of<kFirst>(tops, Heads::kMost);
      if (risen) {
        const float by[2] = {rise<kFirst>(0, top.x), rise<kFirst>(1, top.y)};
#pragma unroll
        for (int i = 0; i < kScores; ++i) s[i] -= by[row_of(i)];
      }
    }
    // The exponentials take longest: all else that can be is done between them.
    float sums[2][2] = {};
    float tops[2][2] = {};
#pragma unroll
    for (int i = 0; i < kScores; ++i) {
      if constexpr (kKind == ScoreKind::kBounded) s[i] = s[i] * scale - offset[row_of(i)];
      s[i] = fast_exp2(s[i]);
      sums[row_of(i)][i % 2] += s[i];
      if constexpr (kKind == ScoreKind::kBounded) {
        tops[row_of(i)][i % 2] = fmaxf(tops[row_of(i)][i % 2], s[i]);
      }
    }
    if constexpr (kKind == ScoreKind::kBounded) {
      const float2 top = largest_of<kFirst>(tops, exp2f(Heads::kMost));
      if (risen) {
        rise<kFirst>(0, __log2f(top.x));
        rise<kFirst>(1, __log2f(top.y));
#pragma unroll
        for (int i = 0; i < kScores; ++i) s[i] *= factors[row_of(i)];
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[i / 2][i % 2] *= factors[i / 2];
      }
    }
    for (int row = 0; row < 2; ++row) total[row] += sums[row][0] + sums[row][1];
    pin(total);
  }
  /// Brings sums of earlier tiles to the offset of this one.
  __device__ __forceinline__ void shrink(float (&out)[64]) const {
    if constexpr (kKind == ScoreKind::kPlain) return;
    if (!risen) return;
#pragma unroll
    for (int i = 0; i < 64; ++i) out[i] *= factors[row_of(i)];
  }

 private:
  __device__ static constexpr int row_of(int i) { return i / 2 % 2; }

  /// The largest values of the rows, where some row of the warp needs them.
  template <bool kFirst>
  __device__ __forceinline__ float2 largest_of(const float (&tops)[2][2], float most) {
    float2 top = make_float2(fmaxf(tops[0][0], tops[0][1]), fmaxf(tops[1][0], tops[1][1]));
    risen = kFirst || __any_sync(0xffffffffu, top.x > most || top.y > most);
    if (!risen) return top;
#pragma unroll
    for (int lane = 1; lane <= 2; lane *= 2) {
      top.x = fmaxf(top.x, __shfl_xor_sync(0xffffffffu, top.x, lane));
      top.y = fmaxf(top.y, __shfl_xor_sync(0xffffffffu, top.y, lane));
    }
    return top;
  }
  /// Raises the offset of a row with this largest exponent, if it has to; returns by how much.
  template <bool kFirst>
  __device__ __forceinline__ float rise(int row, float top) {
    const float by = kFirst || top > Heads::kMost ? top - Heads::kUsual : 0.0f;
    offset[row] += by;
    factors[row] = fast_exp2(-by);
    total[row] *= factors[row];
    return by;
  }
};

/// Masks the scores of keys from `keys` on.
__device__ inline void mask(float (&s)[kScores], int keys) {
#pragma unroll
  for (int i = 0; i < kScores; ++i) {
    const int key = i / 4 * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + i % 2;
    if (key >= keys) s[i] = -INFINITY;
  }
}

__device__ inline void release(uint64_t* empty) {
  if (threadIdx.x % 32 == 0) arrive(empty);
}

template <typename Heads>
__device__ void store(const Args& args, const WorkItem& item, int group, const float (&out)[64],
                      const float (&totals)[2]) {
  const Segment& segment = item.segment;
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int first = item.row + group * 64 + thread / 32 * 16 + thread % 32 / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float total = totals[half];
    total += __shfl_xor_sync(0xffffffffu, total, 1);
    total += __shfl_xor_sync(0xffffffffu, total, 2);
    const float factor = Heads::factor_of(segment) / total;
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
      if (query >= segment.q_tokens || 32 * i + thread % 4 * 8 >= args.dim) continue;
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
template <typename Heads, ScoreKind kKind>
struct Consumer {
  const Args& args;
  SharedTiles<Heads>& tiles;
  int group;
  Ring<Heads::kStages> k_ring, v_ring;

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
    const auto first_v = Heads::values(tiles.v[0]);
    float out[64] = {};
    float s[kScores];
    uint32_t p[Heads::kWeights];
    Softmax<Heads, kKind> softmax;
    wait(&tiles.q_full, q_parity);
    wait(&tiles.k_full[k_ring.stage], k_ring.parity);
    wait_for_other();
    begin_products();
    Heads::issue_scores(s, q, first_k.after(k_ring.stage * Heads::kKeyBytes));
    commit_products();
    let_other_start(last_item && count == 1);
    wait_products<0>();
    pin(s);
    release_keys();
    if (count == 1) mask(s, last_keys);
    softmax.template take<true>(s, args.scale_log2);
    Heads::round_weights(s, p);
    if (count > 1) wait(&tiles.k_full[k_ring.stage], k_ring.parity);
    for (int tile = 1; tile < count; ++tile) {
      wait(&tiles.v_full[v_ring.stage], v_ring.parity);
      wait_for_other();
      begin_products();
      Heads::issue_scores(s, q, first_k.after(k_ring.stage * Heads::kKeyBytes));
      commit_products();
      Heads::issue_values(out, p, first_v.after(v_ring.stage * Heads::kKeyBytes));
      commit_products();
      let_other_start(last_item && tile + 1 == count);
      wait_products<1>();
      pin(s);
      release_keys();
      if (tile + 1 == count && last_keys < kKeys) mask(s, last_keys);
      softmax.template take<false>(s, args.scale_log2);
      // The assembler would wait for the values before it begins the softmax, but moves nothing
      // across a loop.
      pin(s);
      if (tile + 1 < count) wait(&tiles.k_full[k_ring.stage], k_ring.parity);
      wait_products<0>();
      pin(out);
      keep(p);
      release_values();
      softmax.shrink(out);
      Heads::round_weights(s, p);
    }
    release(&tiles.q_empty);
    wait(&tiles.v_full[v_ring.stage], v_ring.parity);
    begin_products();
    Heads::issue_values(out, p, first_v.after(v_ring.stage * Heads::kKeyBytes));
    commit_products();
    wait_products<0>();
    pin(out);
    keep(p);
    release_values();
    store<Heads>(args, item, group, out, softmax.total);
  }
};

template <typename Heads, ScoreKind kKind>
__device__ void consume(const Args& args, SharedTiles<Heads>& tiles, int group) {
  Consumer<Heads, kKind> consumer{args, tiles, group, {}, {}};
  uint32_t q_parity = 0;
  if (group == 1) arrive_named(1, 256);  // group 0 starts
  for (int index = blockIdx.x; index < args.items; index += gridDim.x) {
    consumer.run(index, q_parity);
    q_parity ^= 1;
  }
}

template <typename Heads>
__device__ void init_barriers(SharedTiles<Heads>& tiles) {
  constexpr int kWarps = kGroups * 4;
  init_barrier(&tiles.q_full, 1);
  init_barrier(&tiles.q_empty, kWarps);
  for (int i = 0; i < Heads::kStages; ++i) {
    init_barrier(&tiles.k_full[i], 1);
    init_barrier(&tiles.k_empty[i], kWarps);
    init_barrier(&tiles.v_full[i], 1);
    init_barrier(&tiles.v_empty[i], kWarps);
  }
  fence_barriers();
}

template <typename Heads, ScoreKind kKind>
__global__ void __launch_bounds__(kThreads, 1)
    hopper_attention_kernel(const __grid_constant__ Args args) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  auto& tiles = shared_tiles<SharedTiles<Heads>>();
  if (threadIdx.x == 0) init_barriers(tiles);
  __syncthreads();
  begin_kernel();
  if (threadIdx.x < 128) {
    give_registers<24>();
    if (threadIdx.x == 0) produce(args, tiles);
  } else {
    take_registers<240>();
    consume<Heads, kKind>(args, tiles, warpgroup() - 1);
  }
#endif
}

/// The bound of scores, in exponents of two.
inline float bound_of(const FlashAttention& args) { return args.bound.value_or(INFINITY) * kLog2E; }

/// add_maps(from, to) makes the maps of a segment.
template <typename Heads, ScoreKind kKind, typename AddMaps>
cudaError_t launch(std::span<const FlashAttention> segments, int multiprocessors,
                   cudaStream_t stream, const AddMaps& add_maps) {
  Args args{};
  args.scale_log2 = segments[0].scale * kLog2E;
  args.dim = static_cast<int>(segments[0].dim);
  for (const FlashAttention& from : segments) {
    Segment& to = args.segments[args.count++];
    const cudaError_t result = add_maps(from, to);
    if (result != cudaSuccess) return result;
    to.out = from.out;
    to.out_scales = from.out_scales;
    to.out_scales_stride = from.out_scales_stride;
    to.v_scale = from.v_scale;
    to.out_token_stride = from.out_strides[0];
    to.out_head_stride = from.out_strides[1];
    to.q_tokens = static_cast<int>(from.q_tokens);
    to.k_tokens = static_cast<int>(from.k_tokens);
    to.first_item = args.items;
    args.items += to.q_tiles() * static_cast<int>(from.heads);
  }
  constexpr int kShared = sizeof(SharedTiles<Heads>) + 1024;
  static_assert(kShared <= 227 * 1024);
  const auto blocks = static_cast<unsigned>(std::min(args.items, multiprocessors));
  return launch_kernel(hopper_attention_kernel<Heads, kKind>, {blocks, kThreads, stream, kShared},
                       args);
}

}  // namespace flux::cuda::hopper::attention
