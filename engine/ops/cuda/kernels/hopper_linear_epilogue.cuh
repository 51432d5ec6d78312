#pragma once

#include "ops/cuda/kernels/hopper_linear_fragment.cuh"

/// Epilogues of hopper_linear.cu, from the sums of a consumer thread to the stored result. The sums
/// are rounded at once, which frees them for the next tile; the rest is done in steps, which may be
/// put off and done while the next tile is multiplied.
namespace flux::cuda::hopper::linear {

enum class EpilogueKind { kBias, kGelu, kResidual, kNorm };

/// GELU by the tanh instruction, which is exact enough for bf16.
__device__ inline float fast_gelu(float x) {
  float y = x * (0.7978845608f + 0.0356774081f * x * x);
  asm("tanh.approx.f32 %0, %1;\n" : "=f"(y) : "f"(y));
  const float half = 0.5f * x;
  return half * y + half;
}

/// Number of exchanges of sums of squares with the other block of the cluster; picks the slot and
/// its phase.
struct Exchanges {
  uint32_t count = 0;

  __device__ uint32_t slot() const { return count % 2; }
  __device__ uint32_t parity() const { return count / 2 % 2; }
};

/// Calls f with 0, ..., kCount - 1 as constants. (std::integral_constant is not for devices.)
template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};
template <int kCount, int kFirst = 0, typename F>
__device__ __forceinline__ void for_each_constant(const F& f) {
  if constexpr (kFirst < kCount) {
    f(Constant<kFirst>{});
    for_each_constant<kCount, kFirst + 1>(f);
  }
}

/// The epilogue of a whole tile, or of a kSplit-th of its columns. Step i needs the values that
/// load<load_of(i)>() loaded.
template <typename Whole, int kSplit, EpilogueKind kKind>
struct TileEpilogue : Fragment<Whole, kSplit> {
  using Base = Fragment<Whole, kSplit>;
  using Base::Base;
  static constexpr int kSteps = 2 * Base::kChunks;
  static constexpr bool kAdds = kKind == EpilogueKind::kResidual;
  static constexpr int kLoads = kAdds ? kSteps : 0;
  /// Where the result is e4m3: one by the scale of the row of either half.
  static constexpr bool kEncodes = Whole::kScaled && kKind == EpilogueKind::kGelu;
  struct Loaded {
    Pack<uint32_t, 4> residual;
  };

  float factors[kEncodes ? 2 : 1];

  /// As Fragment's; also writes the scales of the result's rows.
  __device__ void round(const ArgsOf<Whole>& args, const SharedTiles<Whole>& tiles,
                        float2 row_scales, bool scaled, const float (&sums)[Base::kColumns / 2]) {
    if constexpr (kEncodes) encode_rows_with(args);
    Base::round(args, tiles, row_scales, scaled, sums);
  }

  __host__ __device__ static constexpr int load_of(int step) { return kAdds ? step : -1; }

  template <int kLoad>
  __device__ void load(const Args& args, Loaded& loaded) const {
    const Segment& segment = this->segment(args);
    const int column = this->tile.column + 32 * (kLoad / 2) + 8 * this->quarter();
    loaded.residual = {};
    if (!this->has_row(args, kLoad % 2) || column >= args.columns) return;
    const bf16* row = segment.residual + (this->row + kLoad % 2 * 8) * segment.residual_stride;
    loaded.residual = Pack<uint32_t, 4>::load(reinterpret_cast<const uint32_t*>(row + column));
  }

  template <int kStep>
  __device__ __forceinline__ void step(const Args& args, const SharedTiles<Whole>& tiles,
                                       const Loaded& loaded, Exchanges&) {
    constexpr int kChunk = kStep / 2;
    uint32_t(&words)[4] = this->words[kChunk][kStep % 2];
    if constexpr (kKind == EpilogueKind::kGelu) {
#pragma unroll
      for (uint32_t& word : words) {
        const float2 pair = unpack_pair(word);
        word = pack_pair(fast_gelu(pair.x), fast_gelu(pair.y));
      }
    }
    transpose_words(words);
    if constexpr (kAdds) {
      Pack<float, 8> gate;
#pragma unroll
      for (float& value : gate.values) value = 1.0f;
      if (this->segment(args).gate) {
        gate = Pack<float, 8>::load(tiles.gate + 32 * kChunk + 8 * this->quarter());
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float2 pair = unpack_pair(words[k]);
        const float2 extra = unpack_pair(loaded.residual.values[k]);
        words[k] = pack_pair(__fmaf_rn(pair.x, gate.values[2 * k], extra.x),
                             __fmaf_rn(pair.y, gate.values[2 * k + 1], extra.y));
      }
    }
    if constexpr (kEncodes) {
      this->store_e4m3(args, kChunk, kStep % 2, factors[kStep % 2]);
    } else {
      this->store(args, kChunk, kStep % 2);
    }
  }

 private:
  /// The tiles of a row compute the same scale; the first one writes it.
  __device__ void encode_rows_with(const ArgsOf<Whole>& args) {
    const HopperLinear::Scales& scales = this->segment(args).scales;
    const float least = scales.least ? *scales.least : 0.0f;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = min(this->row + half * 8, this->segment(args).rows - 1);
      float w_norm = scales.w_bounds[0];
      float most = scales.w_bounds[1];
      if constexpr (Whole::kChanges) {
        w_norm *= scales.w_factor;
        most += scales.more + bound_of_terms(args, row);
        if (scales.added) most += *scales.added * kLargestE4M3;
      }
      // GELU makes nothing larger. A hundredth more: the norms and the sums are rounded.
      const float bound = __fmaf_rn(scales.x_norms[row], w_norm, most);
      const float scale = fmaxf(__fmul_rn(bound, 1.01f / kLargestE4M3), least);
      factors[half] = e4m3_factor(scale);
      if (this->tile.column == 0 && this->quarter() == 0 && this->has_row(args, half)) {
        scales.out[row] = scale;
      }
    }
  }

  /// A bound of what all terms add to a row; the four threads of the row take a part each.
  __device__ float bound_of_terms(const ChangeArgs& args, int row) const {
    const SegmentChanges& changes = args.changes[this->tile.segment];
    float bound = 0.0f;
    for (int i = 0; i < changes.count; ++i) {
      const Term& term = args.terms[changes.first + i];
      const bf16* x = term.x + row * term.x_stride;
      float squares = 0.0f;
      for (int k = 8 * this->quarter(); k < term.depth; k += 32) {
        for (const bf16 value : Pack<bf16, 8>::load(x + k).values) {
          squares = __fmaf_rn(to_float(value), to_float(value), squares);
        }
      }
      for (int lane = 1; lane <= 2; lane *= 2) {
        squares += __shfl_xor_sync(0xffffffffu, squares, lane);
      }
      bound = __fmaf_rn(sqrtf(squares), term.up_norm, bound);
    }
    return bound;
  }
};

/// The norm and rotation of the heads of queries and keys, with the bits of norm_rope(). Where a
/// tile has one and a half heads, the other block of the cluster has the other half, and the two
/// blocks exchange their sums of squares.
template <typename Whole, int kSplit>
struct TileEpilogue<Whole, kSplit, EpilogueKind::kNorm> : Fragment<Whole, kSplit> {
  using Base = Fragment<Whole, kSplit>;
  using Base::Base;
  static constexpr int kHeads = Base::kChunks * 32 / kHeadDim;  // whole ones
  static constexpr int kHeadChunks = kHeadDim / 32;
  static constexpr int kHalf = kHeadDim / 2;
  /// The steps of one half of the rows: the factor of each whole head, then chunk after chunk of
  /// all whole heads. A head in two blocks adds steps around those of both halves: first its sums
  /// of squares are sent, last of all they are received and its chunks rotated.
  static constexpr int kHalfSteps = kHeads * (1 + kHeadChunks);
  static constexpr int kFirstWhole = Whole::kWholeHeads ? 0 : 1;
  static constexpr int kFirstSplit = kFirstWhole + 2 * kHalfSteps + 1;
  static constexpr int kSteps = Whole::kWholeHeads ? 2 * kHalfSteps : kFirstSplit + kHeadChunks;
  static constexpr int kWholeLoads = 2 * kHeadChunks;
  static constexpr int kLoads = kWholeLoads + (Whole::kWholeHeads ? 0 : kHeadChunks);
  /// The angles of four pairs of a head, from 16 chunk + 4 quarter() on.
  struct Loaded {
    Pack<float, 4> cos, sin;
  };

  float factors[2];        // of whole heads; of a head in two blocks, for each half of the rows
  float largest = 0.0f;    // size of the other columns, where it is wanted
  float split_squares[2];  // this block's sums for a head in two blocks

  __host__ __device__ static constexpr int load_of(int step) {
    if (!Whole::kWholeHeads && step >= kFirstSplit) return kWholeLoads + step - kFirstSplit;
    const int own = step - kFirstWhole;
    if (own < 0 || own >= 2 * kHalfSteps || own % kHalfSteps < kHeads) return -1;
    return own / kHalfSteps * kHeadChunks + own % kHalfSteps / kHeads - 1;
  }

  template <int kLoad>
  __device__ void load(const Args& args, Loaded& loaded) const {
    int half = kLoad / kHeadChunks;
    int chunk = kLoad % kHeadChunks;
    if constexpr (kLoad >= kWholeLoads) {
      half = (kLoad - kWholeLoads) / 2;
      // A shared head at the tile's start is the second half of the head.
      chunk = kLoad % 2 + (splits_first() ? kHeadChunks / 2 : 0);
    }
    if (!normed(args, 0)) return;
    const Segment& segment = this->segment(args);
    // Rows beyond the last read the last one's angles.
    const int row = min(this->row + half * 8, segment.rows - 1);
    const int64_t at = static_cast<int64_t>(row) * kHalf + 16 * chunk + 4 * this->quarter();
    loaded.cos = Pack<float, 4>::load(segment.norm.cos + at);
    loaded.sin = Pack<float, 4>::load(segment.norm.sin + at);
  }

  template <int kStep>
  __device__ __forceinline__ void step(const Args& args, SharedTiles<Whole>& tiles,
                                       const Loaded& loaded, Exchanges& exchanges) {
    if constexpr (Whole::kScaled && kStep + 1 == kSteps) {
      step_of<kStep>(args, tiles, loaded, exchanges);
      raise_scale(args);
    } else {
      step_of<kStep>(args, tiles, loaded, exchanges);
    }
  }

 private:
  template <int kStep>
  __device__ __forceinline__ void step_of(const Args& args, SharedTiles<Whole>& tiles,
                                          const Loaded& loaded, Exchanges& exchanges) {
    if constexpr (Whole::kWholeHeads) {
      whole_step<kStep, 0>(args, tiles, loaded);
    } else if (splits_first()) {
      split_step<kStep, 0, kHalf>(args, tiles, loaded, exchanges);
    } else {
      split_step<kStep, kHeadDim, 0>(args, tiles, loaded, exchanges);
    }
  }

  /// Looks at a chunk of columns that are neither queries nor keys.
  __device__ void look_at(const Args& args, int chunk, int half) {
    if constexpr (!Whole::kScaled) return;
    const int column = this->tile.column + 32 * chunk + 8 * this->quarter();
    if (!this->has_row(args, half) || column >= args.columns) return;
#pragma unroll
    for (const uint32_t word : this->words[chunk][half]) {
      const float2 pair = unpack_pair(word);
      largest = fmaxf(largest, fmaxf(fabsf(pair.x), fabsf(pair.y)));
    }
  }
  __device__ void raise_scale(const Args& args) const {
    float* scale = this->segment(args).scales.others;
    if (scale == nullptr) return;
    raise(scale, warp_max(largest) * (1.0f / kLargestE4M3), threadIdx.x % 32 == 0);
  }

  /// Whether the tile begins in the middle of a head.
  __device__ bool splits_first() const { return this->tile.column % kHeadDim != 0; }
  __device__ bool normed(const Args& args, int begin) const {
    return this->tile.column + begin < args.norm_columns;
  }

  /// A step of the whole heads, which begin at column kBegin of the tile.
  template <int kStep, int kBegin>
  __device__ __forceinline__ void whole_step(const Args& args, const SharedTiles<Whole>& tiles,
                                             const Loaded& loaded) {
    constexpr int kRowHalf = kStep / kHalfSteps;
    constexpr int kOwn = kStep % kHalfSteps;
    constexpr int kHead = kOwn % kHeads;
    constexpr int kFirst = (kBegin + kHead * kHeadDim) / 32;
    const bool is_normed = normed(args, kBegin + kHead * kHeadDim);
    if constexpr (kOwn < kHeads) {
      transpose<kHeadChunks>(kFirst, kRowHalf);
      if (!is_normed) return;
      const float squares =
          __fadd_rn(squares_of_half(kFirst, kRowHalf), squares_of_half(kFirst + 2, kRowHalf));
      factors[kHead] = norm_factor(squares, kHeadDim, this->segment(args).norm.eps);
    } else {
      constexpr int kChunk = kFirst + kOwn / kHeads - 1;
      finish(args, tiles, kChunk, kRowHalf, is_normed, factors[kHead], loaded);
    }
  }

  /// A step of a whole head from column kBegin on and of half a head from kHalfHead on.
  template <int kStep, int kHalfHead, int kBegin>
  __device__ __forceinline__ void split_step(const Args& args, SharedTiles<Whole>& tiles,
                                             const Loaded& loaded, Exchanges& exchanges) {
    constexpr uint32_t kOther = kHalfHead == 0 ? 0 : 1;  // the block that has the other half
    const bool is_normed = normed(args, kHalfHead);
    const int own_row = this->row - this->tile.row;
    float* received = tiles.squares[exchanges.slot()];
    uint64_t* full = &tiles.squares_full[exchanges.slot()];
    if constexpr (kStep == 0) {
#pragma unroll
      for (int half = 0; half < 2; ++half) transpose<kHeadChunks / 2>(kHalfHead / 32, half);
      if (!is_normed) return;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        split_squares[half] = squares_of_half(kHalfHead / 32, half);
        if (this->quarter() == 0) {
          send(split_squares[half], received + own_row + half * 8, full, kOther);
        }
      }
      if (own_row == 0 && this->quarter() == 0) expect(full, sizeof(tiles.squares[0]));
    } else if constexpr (kStep < kFirstSplit - 1) {
      whole_step<kStep - kFirstWhole, kBegin>(args, tiles, loaded);
    } else if constexpr (kStep == kFirstSplit - 1) {
      if (!is_normed) return;
      wait(full, exchanges.parity());
      ++exchanges.count;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float squares = __fadd_rn(split_squares[half], received[own_row + half * 8]);
        factors[half] = norm_factor(squares, kHeadDim, this->segment(args).norm.eps);
      }
    } else {
      constexpr int kOwn = kStep - kFirstSplit;
      constexpr int kChunk = kHalfHead / 32 + kOwn % 2;
      finish(args, tiles, kChunk, kOwn / 2, is_normed, factors[kOwn / 2], loaded);
    }
  }

  /// Rotates a transposed chunk of queries or keys, and stores it.
  __device__ __forceinline__ void finish(const Args& args, const SharedTiles<Whole>& tiles,
                                         int chunk, int half, bool is_normed, float factor,
                                         const Loaded& angles) {
    if (is_normed) {
      rotate(tiles, chunk, half, factor, angles);
      if constexpr (Whole::kScaled) {
        if (this->segment(args).norm.encoded != nullptr) return store_encoded(args, chunk, half);
      }
    } else {
      look_at(args, chunk, half);
    }
    this->store(args, chunk, half);
  }
  __device__ void store_encoded(const Args& args, int chunk, int half) const {
    if (!this->has_row(args, half)) return;
    const HopperLinear::Norm& norm = this->segment(args).norm;
    const int column = this->tile.column + 32 * chunk + 8 * this->quarter();
    const int64_t row = this->row + half * 8;
    store_as_e4m3(unpack_words(this->words[chunk][half]),
                  norm.encodings[column < args.q_columns ? 0 : 1],
                  norm.encoded + row * args.norm_columns + column);
  }

  template <int kCount>
  __device__ void transpose(int first_chunk, int half) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) transpose_words(this->words[first_chunk + i][half]);
  }

  /// Adds the squares of 64 columns in norm_rope_kernel's order.
  __device__ float squares_of_half(int first_chunk, int half) const {
    float sums[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t(&chunk)[4] = this->words[first_chunk + i][half];
      sums[i] = __fadd_rn(
          __fadd_rn(squares_of(unpack_pair(chunk[0])), squares_of(unpack_pair(chunk[1]))),
          __fadd_rn(squares_of(unpack_pair(chunk[2])), squares_of(unpack_pair(chunk[3]))));
    }
    float sum = __fadd_rn(sums[0], sums[1]);
#pragma unroll
    for (int lane = 1; lane <= 2; lane *= 2) {
      sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, lane));
    }
    return sum;
  }

  __device__ void rotate(const SharedTiles<Whole>& tiles, int chunk, int half, float factor,
                         const Loaded& angles) {
    const auto weights = Pack<float, 8>::load(tiles.gate + 32 * chunk + 8 * this->quarter());
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      uint32_t& word = this->words[chunk][half][k];
      const float2 weight = make_float2(weights.values[2 * k], weights.values[2 * k + 1]);
      const float2 pair = norm_and_rotate(unpack_pair(word), factor, weight, angles.cos.values[k],
                                          angles.sin.values[k]);
      word = pack_pair(pair.x, pair.y);
    }
  }
};

}  // namespace flux::cuda::hopper::linear
