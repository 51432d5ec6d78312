#pragma once

#include "ops/cuda/kernels/hopper_linear.cuh"

/// What a consumer thread of hopper_linear.cu has of a tile's result: scaled, changed, rounded and
/// stored by all epilogues alike.
namespace flux::cuda::hopper::linear {

/// The rounded sums of a consumer thread, two columns a word: words[chunk][half][i], a chunk being
/// 32 columns. With t = threadIdx.x % 32 and q = t % 4 they are
///   row of the warp's 16     t / 4 + 8 half
///   columns at first         32 chunk + 8 i + 2 q    and the next: the layout of wgmma's sums
///   after transpose_words()  32 chunk + 8 q + 2 i    and the next: 16 bytes to store at once
template <typename Whole, int kSplit>
struct Fragment {
  static constexpr int kColumns = Whole::kColumns / kSplit;
  static constexpr int kChunks = kColumns / 32;

  TileCoord tile;
  int row;  // of half 0
  uint32_t words[kChunks][2][4];

  Fragment() = default;
  __device__ Fragment(const TileCoord& where, int group)
      : tile(where),
        row(where.row + group * 64 + static_cast<int>(threadIdx.x) / 32 % 4 * 16 +
            static_cast<int>(threadIdx.x) % 32 / 4) {}

  __device__ static int quarter() { return static_cast<int>(threadIdx.x) % 4; }
  __device__ const Segment& segment(const Args& args) const { return args.segments[tile.segment]; }
  __device__ bool has_row(const Args& args, int half) const {
    return row + half * 8 < segment(args).rows;
  }

  /// The scales of the rows of x of either half; not used where operands have none.
  __device__ float2 row_scales(const Args& args) const {
    if constexpr (!Whole::kScaled) return {};
    const HopperLinear::Scales& scales = segment(args).scales;
    const auto of = [&](int half) {  // rows beyond the last read the last one's
      return scales.x[min(row + half * 8, segment(args).rows - 1) * scales.x_stride];
    };
    return {of(0), of(1)};
  }

  /// Multiplies the sums with their scales and with the factors, where there are changes.
  __device__ void scale(const ChangeArgs& args, const SharedTiles<Whole>& tiles, float2 row_scales,
                        float (&sums)[kColumns / 2]) const {
    const float* factors = args.changes[tile.segment].factors;
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      const int column = 8 * j + quarter() * 2;
      float2 factor = make_float2(1.0f, 1.0f);
      if (factors && tile.column + column < args.columns) {
        factor = *reinterpret_cast<const float2*>(factors + tile.column + column);
      }
      float2 scale = make_float2(1.0f, 1.0f);
      if constexpr (Whole::kScaled) scale = *reinterpret_cast<const float2*>(tiles.scales + column);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float* pair = sums + 4 * j + 2 * half;
        if constexpr (Whole::kScaled) {
          const float row_scale = half == 0 ? row_scales.x : row_scales.y;
          pair[0] *= __fmul_rn(row_scale, scale.x);
          pair[1] *= __fmul_rn(row_scale, scale.y);
        }
        pair[0] *= factor.x;
        pair[1] *= factor.y;
      }
    }
  }

  /// What is added to a pair of sums, where there are changes.
  __device__ float2 added(const ChangeArgs& args, int column, int half) const {
    const SegmentChanges& changes = args.changes[tile.segment];
    const int at = tile.column + column;
    if (changes.added == nullptr || at >= args.columns || !has_row(args, half)) return {};
    const bf16* from = changes.added + (row + half * 8) * changes.added_stride + at;
    return unpack_pair(*reinterpret_cast<const uint32_t*>(from));
  }

  /// Rounds the sums with the scales and the bias, as cuBLASLt does. `scaled`: scale() was called.
  __device__ void round(const ArgsOf<Whole>& args, const SharedTiles<Whole>& tiles,
                        float2 row_scales, bool scaled, const float (&sums)[kColumns / 2]) {
    const bool biased = segment(args).bias != nullptr;
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      float2 bias{};
      const int column = 8 * j + quarter() * 2;
      if (biased) bias = *reinterpret_cast<const float2*>(tiles.bias + column);
      float2 scale = make_float2(1.0f, 1.0f);
      if constexpr (Whole::kScaled) scale = *reinterpret_cast<const float2*>(tiles.scales + column);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float* pair = sums + 4 * j + 2 * half;
        float2 more = bias;
        if constexpr (Whole::kChanges) {
          const float2 own = added(args, column, half);
          more = make_float2(more.x + own.x, more.y + own.y);
        }
        if (Whole::kScaled && !scaled) {
          const float row_scale = half == 0 ? row_scales.x : row_scales.y;
          words[j / 4][half][j % 4] =
              pack_pair(__fmaf_rn(pair[0], __fmul_rn(row_scale, scale.x), more.x),
                        __fmaf_rn(pair[1], __fmul_rn(row_scale, scale.y), more.y));
        } else {
          words[j / 4][half][j % 4] = pack_pair(pair[0] + more.x, pair[1] + more.y);
        }
      }
    }
  }

  /// Stores a transposed chunk: eight columns from 32 chunk + 8 quarter() on.
  __device__ void store(const Args& args, int chunk, int half) const {
    const int column = tile.column + 32 * chunk + 8 * quarter();
    if (!has_row(args, half) || column >= args.columns) return;
    bf16* to = static_cast<bf16*>(segment(args).out) + (row + half * 8) * segment(args).out_stride +
               column;
    const uint32_t(&four)[4] = words[chunk][half];
    *reinterpret_cast<uint4*>(to) = make_uint4(four[0], four[1], four[2], four[3]);
  }
  /// The same as e4m3: the values times `factor`.
  __device__ void store_e4m3(const Args& args, int chunk, int half, float factor) const {
    const int column = tile.column + 32 * chunk + 8 * quarter();
    if (!has_row(args, half) || column >= args.columns) return;
    uint8_t* to = static_cast<uint8_t*>(segment(args).out) +
                  (row + half * 8) * segment(args).out_stride + column;
    store_as_e4m3(unpack_words(words[chunk][half]), factor, to);
  }
};

}  // namespace flux::cuda::hopper::linear
