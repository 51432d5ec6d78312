#pragma once

#include "ops/cuda/kernels/hopper_linear.cuh"

/// How the tiles of hopper_linear.cu end: what a multiplying thread makes of its sums. They are
/// rounded at once, and free for the next tile; what follows is done in steps, which may be put off
/// and done while the next tile is multiplied.
namespace flux::cuda::hopper::linear {

enum class Ending { kBias, kGelu, kResidual, kNorm };

/// GELU's tanh by one instruction, exact enough for bf16.
__device__ inline float fast_gelu(float x) {
  float y = x * (0.7978845608f + 0.0356774081f * x * x);
  asm("tanh.approx.f32 %0, %1;\n" : "=f"(y) : "f"(y));
  const float half = 0.5f * x;
  return half * y + half;
}

/// How often a block has given the other one of its cluster sums of squares, and got some.
struct Exchanges {
  uint32_t count = 0;

  __device__ uint32_t place() const { return count % 2; }
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

/// A multiplying thread's share of a tile: rows t / 4 and t / 4 + 8 of its warp's 16, its halves,
/// and of 32 columns, a turn, first two of each eight, then eight beside one another.
template <int kColumns>
struct Share {
  static constexpr int kTurns = kColumns / 32;

  Place place;
  int row;  // the first
  uint32_t words[kTurns][2][4];

  Share() = default;
  __device__ Share(const Place& where, int group)
      : place(where),
        row(where.row + group * 64 + static_cast<int>(threadIdx.x) / 32 % 4 * 16 +
            static_cast<int>(threadIdx.x) % 32 / 4) {}

  __device__ static int quarter() { return static_cast<int>(threadIdx.x) % 4; }
  __device__ const Part& part(const Args& args) const { return args.parts[place.part]; }
  __device__ bool has_row(const Args& args, int half) const {
    return row + half * 8 < part(args).rows;
  }

  /// Rounds the sums with the bias, as the product by itself is.
  template <typename Whole>
  __device__ void round(const Args& args, const Tiles<Whole>& tiles,
                        const float (&sums)[kColumns / 2]) {
    const bool biased = part(args).bias != nullptr;
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      float2 bias{};
      if (biased) bias = *reinterpret_cast<const float2*>(tiles.bias + 8 * j + quarter() * 2);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float* pair = sums + 4 * j + 2 * half;
        words[j / 4][half][j % 4] = pack_pair(pair[0] + bias.x, pair[1] + bias.y);
      }
    }
  }

  /// Stores the columns 32 turn + 8 quarter to the seventh after it.
  __device__ void store(const Args& args, int turn, int half) const {
    const int column = place.column + 32 * turn + 8 * quarter();
    if (!has_row(args, half) || column >= args.columns) return;
    bf16* to = part(args).out + (row + half * 8) * part(args).out_stride + column;
    const uint32_t(&four)[4] = words[turn][half];
    *reinterpret_cast<uint4*>(to) = make_uint4(four[0], four[1], four[2], four[3]);
  }
};

/// The end of a tile, or of one of kPieces of it. Step i needs what load<load_of(i)>() brought.
template <typename Whole, int kPieces, Ending kEnding>
struct Finish : Share<Whole::kColumns / kPieces> {
  using Base = Share<Whole::kColumns / kPieces>;
  using Base::Base;
  static constexpr int kSteps = 2 * Base::kTurns;
  static constexpr bool kAdds = kEnding == Ending::kResidual;
  static constexpr int kLoads = kAdds ? kSteps : 0;
  struct Loaded {
    Pack<uint32_t, 4> residual;
  };

  __host__ __device__ static constexpr int load_of(int step) { return kAdds ? step : -1; }

  template <int kLoad>
  __device__ void load(const Args& args, Loaded& loaded) const {
    const Part& part = this->part(args);
    const int column = this->place.column + 32 * (kLoad / 2) + 8 * this->quarter();
    loaded.residual = {};
    if (!this->has_row(args, kLoad % 2) || column >= args.columns) return;
    const bf16* row = part.residual + (this->row + kLoad % 2 * 8) * part.residual_stride;
    loaded.residual = Pack<uint32_t, 4>::load(reinterpret_cast<const uint32_t*>(row + column));
  }

  template <int kStep>
  __device__ __forceinline__ void step(const Args& args, const Tiles<Whole>& tiles,
                                       const Loaded& loaded, Exchanges&) {
    constexpr int kTurn = kStep / 2;
    uint32_t(&words)[4] = this->words[kTurn][kStep % 2];
    if constexpr (kEnding == Ending::kGelu) {
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
      if (this->part(args).gate) {
        gate = Pack<float, 8>::load(tiles.gate + 32 * kTurn + 8 * this->quarter());
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float2 pair = unpack_pair(words[k]);
        const float2 extra = unpack_pair(loaded.residual.values[k]);
        words[k] = pack_pair(__fmaf_rn(pair.x, gate.values[2 * k], extra.x),
                             __fmaf_rn(pair.y, gate.values[2 * k + 1], extra.y));
      }
    }
    this->store(args, kTurn, kStep % 2);
  }
};

/// Of queries and keys the norm and rotation of a head, with the bits of norm_rope(). Where a tile
/// has one and a half heads, the other half is in the other block of the cluster, and they give
/// each other the half's sum of squares.
template <typename Whole, int kPieces>
struct Finish<Whole, kPieces, Ending::kNorm> : Share<Whole::kColumns / kPieces> {
  using Base = Share<Whole::kColumns / kPieces>;
  using Base::Base;
  static constexpr int kHeads = Base::kTurns * 32 / kHeadDim;  // whole ones
  static constexpr int kHeadTurns = kHeadDim / 32;
  static constexpr int kHalf = kHeadDim / 2;
  /// For both halves the factor of each whole head, then turn after turn of all of them. Of a head
  /// in two blocks the squares come before that, and what is made of both comes after it.
  static constexpr int kHalfSteps = kHeads * (1 + kHeadTurns);
  static constexpr int kFirstWhole = Whole::kWholeHeads ? 0 : 1;
  static constexpr int kFirstSplit = kFirstWhole + 2 * kHalfSteps + 1;
  static constexpr int kSteps = Whole::kWholeHeads ? 2 * kHalfSteps : kFirstSplit + kHeadTurns;
  static constexpr int kWholeLoads = 2 * kHeadTurns;
  static constexpr int kLoads = kWholeLoads + (Whole::kWholeHeads ? 0 : kHeadTurns);
  /// Of the pairs 16 i + 4 quarter and the next three of a head, i being a turn.
  struct Loaded {
    Pack<float, 4> cos, sin;
  };

  float factors[2];        // of whole heads, or of the halves of a head in two blocks
  float split_squares[2];  // of that head, which this block has

  __host__ __device__ static constexpr int load_of(int step) {
    if (!Whole::kWholeHeads && step >= kFirstSplit) return kWholeLoads + step - kFirstSplit;
    const int own = step - kFirstWhole;
    if (own < 0 || own >= 2 * kHalfSteps || own % kHalfSteps < kHeads) return -1;
    return own / kHalfSteps * kHeadTurns + own % kHalfSteps / kHeads - 1;
  }

  template <int kLoad>
  __device__ void load(const Args& args, Loaded& loaded) const {
    int half = kLoad / kHeadTurns;
    int turn = kLoad % kHeadTurns;
    if constexpr (kLoad >= kWholeLoads) {
      half = (kLoad - kWholeLoads) / 2;
      // Where the split head is first, its other half comes before.
      turn = kLoad % 2 + (splits_first() ? kHeadTurns / 2 : 0);
    }
    if (!normed(args, 0)) return;
    const Part& part = this->part(args);
    // Of a row that is not there, the last one's.
    const int row = min(this->row + half * 8, part.rows - 1);
    const int64_t at = static_cast<int64_t>(row) * kHalf + 16 * turn + 4 * this->quarter();
    loaded.cos = Pack<float, 4>::load(part.norm.cos + at);
    loaded.sin = Pack<float, 4>::load(part.norm.sin + at);
  }

  template <int kStep>
  __device__ __forceinline__ void step(const Args& args, Tiles<Whole>& tiles, const Loaded& loaded,
                                       Exchanges& exchanges) {
    if constexpr (Whole::kWholeHeads) {
      whole_step<kStep, 0>(args, tiles, loaded);
    } else if (splits_first()) {
      split_step<kStep, 0, kHalf>(args, tiles, loaded, exchanges);
    } else {
      split_step<kStep, kHeadDim, 0>(args, tiles, loaded, exchanges);
    }
  }

 private:
  /// Whether the tile begins in the middle of a head.
  __device__ bool splits_first() const { return this->place.column % kHeadDim != 0; }
  __device__ bool normed(const Args& args, int begin) const {
    return this->place.column + begin < args.normed;
  }

  /// Of the heads that are whole from column kBegin of the tile on.
  template <int kStep, int kBegin>
  __device__ __forceinline__ void whole_step(const Args& args, const Tiles<Whole>& tiles,
                                             const Loaded& loaded) {
    constexpr int kRowHalf = kStep / kHalfSteps;
    constexpr int kOwn = kStep % kHalfSteps;
    constexpr int kHead = kOwn % kHeads;
    constexpr int kFirst = (kBegin + kHead * kHeadDim) / 32;
    const bool is_normed = normed(args, kBegin + kHead * kHeadDim);
    if constexpr (kOwn < kHeads) {
      transpose<kHeadTurns>(kFirst, kRowHalf);
      if (!is_normed) return;
      const float squares =
          __fadd_rn(squares_of_half(kFirst, kRowHalf), squares_of_half(kFirst + 2, kRowHalf));
      factors[kHead] = norm_factor(squares, kHeadDim, this->part(args).norm.eps);
    } else {
      constexpr int kTurn = kFirst + kOwn / kHeads - 1;
      if (is_normed) rotate(tiles, kTurn, kRowHalf, factors[kHead], loaded);
      this->store(args, kTurn, kRowHalf);
    }
  }

  /// A whole head from column kBegin on and half a one from kSplit on.
  template <int kStep, int kSplit, int kBegin>
  __device__ __forceinline__ void split_step(const Args& args, Tiles<Whole>& tiles,
                                             const Loaded& loaded, Exchanges& exchanges) {
    constexpr uint32_t kOther = kSplit == 0 ? 0 : 1;  // the block that has the other half
    const bool is_normed = normed(args, kSplit);
    const int own_row = this->row - this->place.row;
    float* received = tiles.squares[exchanges.place()];
    uint64_t* full = &tiles.squares_full[exchanges.place()];
    if constexpr (kStep == 0) {
#pragma unroll
      for (int half = 0; half < 2; ++half) transpose<kHeadTurns / 2>(kSplit / 32, half);
      if (!is_normed) return;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        split_squares[half] = squares_of_half(kSplit / 32, half);
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
        factors[half] = norm_factor(squares, kHeadDim, this->part(args).norm.eps);
      }
    } else {
      constexpr int kOwn = kStep - kFirstSplit;
      constexpr int kTurn = kSplit / 32 + kOwn % 2;
      if (is_normed) rotate(tiles, kTurn, kOwn / 2, factors[kOwn / 2], loaded);
      this->store(args, kTurn, kOwn / 2);
    }
  }

  template <int kCount>
  __device__ void transpose(int first_turn, int half) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) transpose_words(this->words[first_turn + i][half]);
  }

  /// Adds the squares of 64 columns in norm_rope_kernel's order.
  __device__ float squares_of_half(int first_turn, int half) const {
    float sums[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t(&turn)[4] = this->words[first_turn + i][half];
      sums[i] =
          __fadd_rn(__fadd_rn(squares_of(unpack_pair(turn[0])), squares_of(unpack_pair(turn[1]))),
                    __fadd_rn(squares_of(unpack_pair(turn[2])), squares_of(unpack_pair(turn[3]))));
    }
    float sum = __fadd_rn(sums[0], sums[1]);
#pragma unroll
    for (int lane = 1; lane <= 2; lane *= 2) {
      sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, lane));
    }
    return sum;
  }

  __device__ void rotate(const Tiles<Whole>& tiles, int turn, int half, float factor,
                         const Loaded& angles) {
    const auto weights = Pack<float, 8>::load(tiles.gate + 32 * turn + 8 * this->quarter());
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      uint32_t& word = this->words[turn][half][k];
      const float2 weight = make_float2(weights.values[2 * k], weights.values[2 * k + 1]);
      const float2 pair = norm_and_rotate(unpack_pair(word), factor, weight, angles.cos.values[k],
                                          angles.sin.values[k]);
      word = pack_pair(pair.x, pair.y);
    }
  }
};

}  // namespace flux::cuda::hopper::linear
