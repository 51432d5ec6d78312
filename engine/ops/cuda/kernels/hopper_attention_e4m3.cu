#include "ops/cuda/kernels/hopper_attention_kernel.cuh"

namespace flux::cuda::hopper::attention {

// Not in an unnamed namespace: compilers for other GPUs, which use none of it, would warn.

/// Products of e4m3 want both operands along the depth. Queries and keys are so, [rows, dim]; of
/// values a tile is [dim, keys], in boxes of kBox keys whose rows of 64 bytes are swizzled. The
/// weights of a thread are in the registers that the scores were in: of 16 keys it has 2 q, 2 q +
/// 1, 8 + 2 q and 9 + 2 q for q = t % 4, where the product wants four neighbours. So the keys of
/// values are in that order; see encoded_key().
struct E4M3Heads {
  static constexpr int kStages = 3;
  static constexpr int kBox = 64;
  static constexpr int kBoxBytes = kBox * kDim;
  static constexpr int kQueryBytes = kRows * kRowBytes;
  static constexpr int kKeyBytes = kKeys * kRowBytes;
  static constexpr int kWeights = kScores / 4;
  /// The largest weight of a row is between 2^kUsual and 2^kMost, which is at most 448. Numbers
  /// below 2^-10 become 0, so that keys with less than 2^-16 of the largest weight are lost.
  static constexpr float kUsual = 6.0f;
  static constexpr float kMost = 8.75f;

  __device__ static void copy_queries(unsigned char (&to)[kQueryBytes], const CUtensorMap& map,
                                      uint64_t* full, int head, int row) {
    expect(full, kQueryBytes);
    copy_box(to, map, full, 0, head, row);
  }
  __device__ static void copy_keys(unsigned char (&to)[kKeyBytes], const CUtensorMap& map,
                                   uint64_t* full, int head, int row) {
    expect(full, kKeyBytes);
    copy_box(to, map, full, 0, head, row);
  }
  __device__ static void copy_values(unsigned char (&to)[kKeyBytes], const CUtensorMap& map,
                                     uint64_t* full, int head, int key) {
    expect(full, kKeyBytes);
#pragma unroll
    for (int i = 0; i < kKeys / kBox; ++i) {
      copy_box(to + i * kBoxBytes, map, full, key + i * kBox, 0, head);
    }
  }

  __device__ static Descriptor64 values(const void* tile) { return Descriptor64::rows(tile); }
  __device__ static void issue_scores(float (&s)[kScores], Descriptor q, Descriptor k) {
#pragma unroll
    for (int d = 0; d < kDim / 32; ++d) product_e4m3(s, q.after(d * 32), k.after(d * 32), d > 0);
  }
  __device__ static void issue_values(float (&out)[64], const uint32_t (&p)[kWeights],
                                      Descriptor64 v) {
#pragma unroll
    for (int i = 0; i < kKeys / 32; ++i) {
      product_e4m3(out, p + 4 * i, v.after(i / 2 * kBoxBytes + i % 2 * 32));
    }
  }
  __device__ static void round_weights(const float (&s)[kScores], uint32_t (&p)[kWeights]) {
#pragma unroll
    for (int i = 0; i < kWeights; ++i) {
      const float* first = s + i / 2 * 8 + i % 2 * 2;  // 16 keys; then the rows' half
      p[i] = pack_e4m3(first[0], first[1], first[4], first[5]);
    }
  }
  __device__ static float factor_of(const Segment& segment) { return *segment.v_scale; }
};

namespace {

cudaError_t add_maps(const FlashAttention& from, Segment& to) {
  const auto map = [&](CUtensorMap& made, const void* address, const int64_t(&strides)[2],
                       int64_t tokens, int64_t rows) {
    return make_tensor_map(made, MapElement::kByte, address, {kDim, from.heads, tokens},
                           {strides[1], strides[0]}, {kDim, 1, rows});
  };
  cudaError_t result = map(to.q, from.q, from.q_strides, from.q_tokens, kRows);
  if (result == cudaSuccess) result = map(to.k, from.k, from.k_strides, from.k_tokens, kKeys);
  if (result != cudaSuccess) return result;
  return make_tensor_map(to.v, MapElement::kByte, from.v,
                         {encoded_keys(from.k_tokens), kDim, from.heads},
                         {from.v_strides[0], from.v_strides[1]}, {E4M3Heads::kBox, kDim, 1});
}

}  // namespace

cudaError_t launch_e4m3(std::span<const FlashAttention> segments, int multiprocessors,
                        cudaStream_t stream) {
  return bound_of(segments[0]) <= kBound
             ? launch<E4M3Heads, ScoreKind::kBounded>(segments, multiprocessors, stream, add_maps)
             : launch<E4M3Heads, ScoreKind::kAny>(segments, multiprocessors, stream, add_maps);
}

}  // namespace flux::cuda::hopper::attention
