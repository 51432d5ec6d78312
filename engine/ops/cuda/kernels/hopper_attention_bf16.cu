#include "ops/cuda/kernels/hopper_attention_kernel.cuh"

namespace flux::cuda::hopper::attention {

// Not in an unnamed namespace: compilers for other GPUs, which use none of it, would warn.

/// Tiles are [rows, dim] with 64 columns after 64 columns.
struct Bf16Heads {
  static constexpr int kStages = 2;
  static constexpr int kQueryBytes = 2 * kRows * kRowBytes;
  static constexpr int kKeyBytes = 2 * kKeys * kRowBytes;
  static constexpr int kWeights = kScores / 2;  // registers of a thread
  /// Weights of bf16 are as exact for exponents up to kMost as for small ones, and their sums
  /// finite.
  static constexpr float kUsual = 0.0f;
  static constexpr float kMost = 16.0f;

  template <int kCount>
  __device__ static void copy_tile(unsigned char (&to)[kCount], const CUtensorMap& map,
                                   uint64_t* full, int head, int row) {
    expect(full, kCount);
    copy_box(to, map, full, 0, head, row);
    copy_box(to + kCount / 2, map, full, 64, head, row);
  }
  __device__ static void copy_queries(unsigned char (&to)[kQueryBytes], const CUtensorMap& map,
                                      uint64_t* full, int head, int row) {
    copy_tile(to, map, full, head, row);
  }
  __device__ static void copy_keys(unsigned char (&to)[kKeyBytes], const CUtensorMap& map,
                                   uint64_t* full, int head, int row) {
    copy_tile(to, map, full, head, row);
  }
  __device__ static void copy_values(unsigned char (&to)[kKeyBytes], const CUtensorMap& map,
                                     uint64_t* full, int head, int row) {
    copy_tile(to, map, full, head, row);
  }

  __device__ static Descriptor values(const void* tile) {
    return Descriptor::columns(tile, kKeys * kRowBytes);
  }
  __device__ static void issue_scores(float (&s)[kScores], Descriptor q, Descriptor k) {
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      const int half = d / 4 * kRowBytes;
      product(s, q.after(half * kRows + d % 4 * 32), k.after(half * kKeys + d % 4 * 32), d > 0);
    }
  }
  __device__ static void issue_values(float (&out)[64], const uint32_t (&p)[kWeights],
                                      Descriptor v) {
#pragma unroll
    for (int keys = 0; keys < kKeys / 16; ++keys) {
      product_columns(out, p + 4 * keys, v.after(keys * 16 * kRowBytes), true);
    }
  }
  __device__ static void round_weights(const float (&s)[kScores], uint32_t (&p)[kWeights]) {
#pragma unroll
    for (int i = 0; i < kWeights; ++i) p[i] = pack_pair(s[2 * i], s[2 * i + 1]);
  }
  __device__ static float factor_of(const Segment&) { return 1.0f; }
};

namespace {

/// Largest score for which 2^score needs no maximum taken off it: sums of 2^15 such weights times
/// values up to 2^16 are finite.
constexpr float kSmallScore = 96.0f;

cudaError_t add_maps(const FlashAttention& from, Segment& to) {
  const auto map = [&](CUtensorMap& made, const void* address, const int64_t(&strides)[2],
                       int64_t tokens, int64_t rows) {
    return make_tensor_map(made, MapElement::kBf16, address, {kDim, from.heads, tokens},
                           {strides[1], strides[0]}, {64, 1, rows});
  };
  cudaError_t result = map(to.q, from.q, from.q_strides, from.q_tokens, kRows);
  if (result == cudaSuccess) result = map(to.k, from.k, from.k_strides, from.k_tokens, kKeys);
  if (result == cudaSuccess) result = map(to.v, from.v, from.v_strides, from.k_tokens, kKeys);
  return result;
}

}  // namespace

cudaError_t launch_bf16(std::span<const FlashAttention> segments, int multiprocessors,
                        cudaStream_t stream) {
  const float bound = bound_of(segments[0]);
  const bool plain = segments[0].base == ScoreBase::kTwo && bound <= kSmallScore;
  return plain ? launch<Bf16Heads, ScoreKind::kPlain>(segments, multiprocessors, stream, add_maps)
               : launch<Bf16Heads, ScoreKind::kAny>(segments, multiprocessors, stream, add_maps);
}

}  // namespace flux::cuda::hopper::attention
