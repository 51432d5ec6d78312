#pragma once

#include "ops/cuda/kernels/hopper_linear.cuh"

/// How the tiles of hopper_linear.cu end: what a multiplying thread makes of its sums.
namespace flux::cuda::hopper::linear {

enum class Ending { kBias, kGelu, kResidual, kNorm };

/// GELU's tanh by one instruction, exact enough for bf16: what cuBLASLt does.
__device__ inline float fast_gelu(float x) {
  float y = x * (0.7978845608f + 0.0356774081f * x * x);
  asm("tanh.approx.f32 %0, %1;\n" : "=f"(y) : "f"(y));
  return 0.5f * x * (1.0f + y);
}

/// Rounds as the product by itself and a pass over its result do.
template <Ending kEnding>
__device__ uint32_t finish_pair(float a, float b, float2 bias, float2 gate, uint32_t residual) {
  a += bias.x;
  b += bias.y;
  if constexpr (kEnding == Ending::kGelu) {
    a = fast_gelu(a);
    b = fast_gelu(b);
  }
  if constexpr (kEnding == Ending::kResidual) {
    const auto both = *reinterpret_cast<const __nv_bfloat162*>(&residual);
    a = __fmaf_rn(to_float(from_float<bf16>(a)), gate.x, __low2float(both));
    b = __fmaf_rn(to_float(from_float<bf16>(b)), gate.y, __high2float(both));
  }
  const __nv_bfloat162 rounded = __floats2bfloat162_rn(a, b);
  return *reinterpret_cast<const uint32_t*>(&rounded);
}

/// A multiplying thread's share of a tile: rows t / 4 and t / 4 + 8 of its warp's 16, two columns
/// of each eight.
struct Share {
  const Args& args;
  const Place& place;
  int row;  // the first
  int quarter = static_cast<int>(threadIdx.x) % 4;

  __device__ Share(const Args& all, const Place& where, int group)
      : args(all),
        place(where),
        row(where.row + group * 64 + static_cast<int>(threadIdx.x) / 32 % 4 * 16 +
            static_cast<int>(threadIdx.x) % 32 / 4) {}

  __device__ float2 pair_of(const float* given, const float* values, int j, float otherwise) const {
    if (given == nullptr) return make_float2(otherwise, otherwise);
    return *reinterpret_cast<const float2*>(values + 8 * j + quarter * 2);
  }

  /// After transpose_words().
  __device__ static void store_words(const uint32_t (&words)[4], bf16* to) {
    *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
  }
};

/// What a thread loads while the last products run, and what it makes of its sums and stores.
template <typename Shape, Ending kEnding>
struct Finish : Share {
  using Share::Share;
  using Loaded = uint32_t[kEnding == Ending::kResidual ? Shape::kSums / 2 : 1];  // residuals

  __device__ void load(Loaded& residuals) const {
    if constexpr (kEnding == Ending::kResidual) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const bf16* from = place.part->residual + (row + half * 8) * place.part->residual_stride;
#pragma unroll
        for (int j = 0; j < Shape::kColumns / 8; ++j) {
          const int column = place.column + 8 * j + quarter * 2;
          const bool there = row + half * 8 < place.part->rows && column < args.columns;
          residuals[2 * j + half] = there ? *reinterpret_cast<const uint32_t*>(from + column) : 0;
        }
      }
    }
  }

  /// 32 columns at a time, for which the four threads of a row store 16 bytes each.
  __device__ void store(const Tiles<Shape>& tiles, const float (&sums)[Shape::kSums],
                        const Loaded& residuals) const {
#pragma unroll
    for (int first = 0; first < Shape::kColumns / 8; first += 4) {
      uint32_t words[2][4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int j = first + k;
        const float2 bias = pair_of(place.part->bias, tiles.bias, j, 0.0f);
        const float2 gate = kEnding == Ending::kResidual
                                ? pair_of(place.part->gate, tiles.gate, j, 1.0f)
                                : float2{};
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float* sum = sums + 4 * j + 2 * half;
          const uint32_t residual = kEnding == Ending::kResidual ? residuals[2 * j + half] : 0;
          words[half][k] = finish_pair<kEnding>(sum[0], sum[1], bias, gate, residual);
        }
      }
      const int column = place.column + 8 * (first + quarter);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        transpose_words(words[half]);
        if (row + half * 8 >= place.part->rows || column >= args.columns) continue;
        store_words(words[half],
                    place.part->out + (row + half * 8) * place.part->out_stride + column);
      }
    }
  }
};

__device__ inline float2 unpack_pair(uint32_t word) {
  return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
}

/// Head by head: what is stored without a norm, and where the head is a query's or a key's its norm
/// and rotation, with the bits of norm_rope().
template <typename Shape>
struct Finish<Shape, Ending::kNorm> : Share {
  using Share::Share;
  static constexpr int kTurns = kHeadDim / 32;  // of 32 columns, for the 16 bytes of a thread
  using Words = uint32_t[kTurns][4];            // of a row of a head; word [i][k]: see round()
  /// Of the pairs 16 i + 4 quarter and the next three of each head.
  struct Loaded {
    Pack<float, 4> cos[2][kTurns], sin[2][kTurns];
  };

  __device__ void load(Loaded& angles) const {
    const bool any = place.column < args.normed;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool there = any && row + half * 8 < place.part->rows;
      const int64_t first = static_cast<int64_t>(row + half * 8) * (kHeadDim / 2) + 4 * quarter;
      const float* cos = place.part->norm.cos + first;
      const float* sin = place.part->norm.sin + first;
#pragma unroll
      for (int i = 0; i < kTurns; ++i) {
        angles.cos[half][i] = there ? Pack<float, 4>::load(cos + 16 * i) : Pack<float, 4>{};
        angles.sin[half][i] = there ? Pack<float, 4>::load(sin + 16 * i) : Pack<float, 4>{};
      }
    }
  }

  /// One row after the other: beside the sums and the angles there are few registers.
  __device__ void store(const Tiles<Shape>& tiles, const float (&sums)[Shape::kSums],
                        const Loaded& angles) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool there = row + half * 8 < place.part->rows;
      bf16* to = place.part->out + (row + half * 8) * place.part->out_stride + place.column;
#pragma unroll
      for (int begin = 0; begin < Shape::kColumns; begin += kHeadDim) {
        if (place.column + begin >= args.columns) break;
        const bool normed = place.column + begin < args.normed;
        Words words;
        round(tiles, sums, half, begin, words);
        const float factor = normed ? factor_of(words) : 0.0f;
#pragma unroll
        for (int i = 0; i < kTurns; ++i) {
          const int column = begin + 32 * i + 8 * quarter;
          transpose_words(words[i]);
          if (normed) {
            const auto* weights = reinterpret_cast<const float2*>(tiles.gate + column);
            rotate(words[i], factor, Pack<float2, 4>::load(weights), angles.cos[half][i],
                   angles.sin[half][i]);
          }
          if (there) store_words(words[i], to + column);
        }
      }
    }
  }

 private:
  /// Word [i][k] of a row: columns 32 i + 8 k + 2 quarter of the head and the next.
  __device__ void round(const Tiles<Shape>& tiles, const float (&sums)[Shape::kSums], int half,
                        int begin, Words& words) const {
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int j = begin / 8 + 4 * i + k;
        const float* sum = sums + 4 * j + 2 * half;
        const float2 bias = pair_of(place.part->bias, tiles.bias, j, 0.0f);
        words[i][k] = finish_pair<Ending::kBias>(sum[0], sum[1], bias, {}, 0);
      }
      pin(words[i]);  // one register each from here on, not the two halves that it is made of
    }
  }

  /// Adds in norm_rope_kernel's order: there lane l has the pairs l and l + 32, here the thread has
  /// what lanes quarter, quarter + 4, ... have there.
  __device__ float factor_of(const Words& words) const {
    float sums[8];
#pragma unroll
    for (int m = 0; m < 8; ++m) {
      sums[m] = __fadd_rn(squares_of(unpack_pair(words[m / 4][m % 4])),
                          squares_of(unpack_pair(words[m / 4 + 2][m % 4])));
    }
#pragma unroll
    for (int apart = 4; apart > 0; apart /= 2) {  // 4 apart lanes
#pragma unroll
      for (int m = 0; m < apart; ++m) sums[m] = __fadd_rn(sums[m], sums[m + apart]);
    }
    float sum = sums[0];
#pragma unroll
    for (int lane = 2; lane > 0; lane /= 2) {
      sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, lane));
    }
    return norm_factor(sum, kHeadDim, place.part->norm.eps);
  }

  __device__ static void rotate(uint32_t (&words)[4], float factor, const Pack<float2, 4>& weights,
                                const Pack<float, 4>& cos, const Pack<float, 4>& sin) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float2 pair = norm_and_rotate(unpack_pair(words[k]), factor, weights.values[k],
                                          cos.values[k], sin.values[k]);
      const __nv_bfloat162 rounded = __floats2bfloat162_rn(pair.x, pair.y);
      words[k] = *reinterpret_cast<const uint32_t*>(&rounded);
    }
  }
};

}  // namespace flux::cuda::hopper::linear
