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

/// How often a block has given the other one of its cluster sums of squares, and got some.
struct Exchanges {
  uint32_t count = 0;

  __device__ uint32_t place() const { return count % 2; }
  __device__ uint32_t parity() const { return count / 2 % 2; }
};

/// A multiplying thread's share of a tile: rows t / 4 and t / 4 + 8 of its warp's 16; of sums two
/// columns of each eight, and after transpose_words() eight of each 32.
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

  __device__ bool has_row(int half) const { return row + half * 8 < place.part->rows; }

  /// 32 columns of both rows, with bias and activation, rounded as the product by itself is: words
  /// are then the columns 32 turn + 8 quarter to the seventh after it.
  template <Ending kEnding, typename Whole, int kSums>
  __device__ void round(const Tiles<Whole>& tiles, const float (&sums)[kSums], int turn,
                        uint32_t (&words)[2][4]) const {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int j = 4 * turn + k;
      float2 bias{};
      if (place.part->bias) {
        bias = *reinterpret_cast<const float2*>(tiles.bias + 8 * j + quarter * 2);
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float a = sums[4 * j + 2 * half] + bias.x;
        float b = sums[4 * j + 2 * half + 1] + bias.y;
        if constexpr (kEnding == Ending::kGelu) {
          a = fast_gelu(a);
          b = fast_gelu(b);
        }
        words[half][k] = pack_pair(a, b);
      }
    }
    transpose_words(words[0]);
    transpose_words(words[1]);
  }

  /// The thread's eight of 32 columns from `first` of the tile on.
  __device__ void store_words(int half, int first, const uint32_t (&words)[4]) const {
    const int column = place.column + first + 8 * quarter;
    if (!has_row(half) || column >= args.columns) return;
    bf16* to = place.part->out + (row + half * 8) * place.part->out_stride + column;
    *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
  }
};

/// What a thread loads while the last products run, and what it makes of its sums and stores; of a
/// tile, or of one of kPieces of it.
template <typename Whole, int kPieces, Ending kEnding>
struct Finish : Share {
  using Share::Share;
  using Shape = typename Whole::template Piece<kPieces>;
  static constexpr int kTurns = Shape::kColumns / 32;
  static constexpr bool kAdds = kEnding == Ending::kResidual;
  using Loaded = Pack<uint32_t, 4>[kAdds ? 2 : 1][kTurns];  // residuals

  __device__ void load(Loaded& residuals) const {
    if constexpr (kAdds) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const bf16* from = place.part->residual + (row + half * 8) * place.part->residual_stride;
#pragma unroll
        for (int i = 0; i < kTurns; ++i) {
          const int column = place.column + 32 * i + 8 * quarter;
          residuals[half][i] = {};
          if (has_row(half) && column < args.columns) {
            residuals[half][i] =
                Pack<uint32_t, 4>::load(reinterpret_cast<const uint32_t*>(from + column));
          }
        }
      }
    }
  }

  __device__ void store(const Tiles<Whole>& tiles, const float (&sums)[Shape::kSums],
                        const Loaded& residuals, Exchanges&) const {
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      uint32_t words[2][4];
      round<kEnding>(tiles, sums, i, words);
      if constexpr (kAdds) {
        Pack<float, 8> gate;
#pragma unroll
        for (float& value : gate.values) value = 1.0f;
        if (place.part->gate) gate = Pack<float, 8>::load(tiles.gate + 32 * i + 8 * quarter);
        add(gate, residuals[0][i], words[0]);
        add(gate, residuals[1][i], words[1]);
      }
      store_words(0, 32 * i, words[0]);
      store_words(1, 32 * i, words[1]);
    }
  }

 private:
  __device__ static void add(const Pack<float, 8>& gate, const Pack<uint32_t, 4>& residual,
                             uint32_t (&words)[4]) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float2 pair = unpack_pair(words[k]);
      const float2 extra = unpack_pair(residual.values[k]);
      words[k] = pack_pair(__fmaf_rn(pair.x, gate.values[2 * k], extra.x),
                           __fmaf_rn(pair.y, gate.values[2 * k + 1], extra.y));
    }
  }
};

/// Head by head: what is stored without a norm, and where the head is a query's or a key's its norm
/// and rotation, with the bits of norm_rope(). Where a tile has one and a half heads, the other
/// half is in the other block of the cluster, and they give each other the half's sum of squares.
template <typename Whole, int kPieces>
struct Finish<Whole, kPieces, Ending::kNorm> : Share {
  using Share::Share;
  using Shape = typename Whole::template Piece<kPieces>;
  static constexpr int kTurns = kHeadDim / 32;  // of 32 columns, for the 16 bytes of a thread
  static constexpr int kHalf = kHeadDim / 2;
  using Words = uint32_t[2][4];  // of 32 columns of the two rows
  /// Of the pairs 16 i + 4 quarter and the next three of each head.
  struct Angles {
    Pack<float, 4> cos[kTurns], sin[kTurns];
  };
  using Loaded = Angles[2];  // of the thread's two rows

  __device__ void load(Loaded& angles) const { load_row(angles[0], 0); }

  __device__ void store(Tiles<Whole>& tiles, const float (&sums)[Shape::kSums], Loaded& angles,
                        Exchanges& exchanges) const {
    Words words[Shape::kColumns / 32];
#pragma unroll
    for (int i = 0; i < Shape::kColumns / 32; ++i) {
      round<Ending::kNorm>(tiles, sums, i, words[i]);
    }
    load_row(angles[1], 1);  // before the sums are rounded there are no registers for it
    if constexpr (Shape::kWholeHeads) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int begin = 0; begin < Shape::kColumns; begin += kHeadDim) {
          store_head(tiles, half, begin, angles[half], words + begin / 32);
        }
      }
    } else if (place.column % kHeadDim == 0) {
      store_split<0, kHeadDim>(tiles, angles, exchanges, words);
    } else {
      store_split<kHalf, 0>(tiles, angles, exchanges, words);
    }
  }

 private:
  __device__ void load_row(Angles& angles, int half) const {
    if (place.column >= args.normed) return;
    // Of a row that is not there, the last one's.
    const int at = min(row + half * 8, place.part->rows - 1);
    const int64_t first = static_cast<int64_t>(at) * kHalf + 4 * quarter;
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      angles.cos[i] = Pack<float, 4>::load(place.part->norm.cos + first + 16 * i);
      angles.sin[i] = Pack<float, 4>::load(place.part->norm.sin + first + 16 * i);
    }
  }

  /// The whole head that begins at column `begin` of the tile with `words`.
  __device__ void store_head(const Tiles<Whole>& tiles, int half, int begin, const Angles& angles,
                             Words* words) const {
    if (place.column + begin < args.normed) {
      const float squares =
          __fadd_rn(squares_of_half(words, half), squares_of_half(words + kTurns / 2, half));
      rotate<kTurns>(tiles, half, begin, squares, angles, 0, words);
    }
    store_turns<kTurns>(half, begin, words);
  }

  /// A whole head from column kWhole on and half a one from kSplit on.
  template <int kWhole, int kSplit>
  __device__ void store_split(Tiles<Whole>& tiles, const Loaded& angles, Exchanges& exchanges,
                              Words* words) const {
    constexpr int kFirstTurn = kSplit == 0 ? kTurns / 2 : 0;  // the head's other half comes before
    constexpr uint32_t kOther = kSplit == 0 ? 0 : 1;          // the block that has it
    Words* split = words + kSplit / 32;
    const bool normed = place.column + kSplit < args.normed;
    const int own_row = row - place.row;
    float* received = tiles.squares[exchanges.place()];
    uint64_t* full = &tiles.squares_full[exchanges.place()];
    float squares[2];
    if (normed) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        squares[half] = squares_of_half(split, half);
        if (quarter == 0) send(squares[half], received + own_row + half * 8, full, kOther);
      }
      if (own_row == 0 && quarter == 0) expect(full, sizeof(tiles.squares[0]));
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      store_head(tiles, half, kWhole, angles[half], words + kWhole / 32);
    }
    if (normed) {
      wait(full, exchanges.parity());
      ++exchanges.count;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float all = __fadd_rn(squares[half], received[own_row + half * 8]);
        rotate<kTurns / 2>(tiles, half, kSplit, all, angles[half], kFirstTurn, split);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) store_turns<kTurns / 2>(half, kSplit, split);
  }

  /// Adds the squares of 64 columns in norm_rope_kernel's order.
  __device__ static float squares_of_half(const Words* words, int half) {
    float sums[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t(&turn)[4] = words[i][half];
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

  /// Norm and rotation of some turns of a row, of the head's from first_turn on.
  template <int kCount>
  __device__ void rotate(const Tiles<Whole>& tiles, int half, int begin, float squares,
                         const Angles& angles, int first_turn, Words* words) const {
    const float factor = norm_factor(squares, kHeadDim, place.part->norm.eps);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const auto weights = Pack<float, 8>::load(tiles.gate + begin + 32 * i + 8 * quarter);
      uint32_t(&turn)[4] = words[i][half];
      pin(turn);  // unpacked anew: there are no registers for what the squares were made of
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float2 weight = make_float2(weights.values[2 * k], weights.values[2 * k + 1]);
        const float2 pair = norm_and_rotate(unpack_pair(turn[k]), factor, weight,
                                            angles.cos[first_turn + i].values[k],
                                            angles.sin[first_turn + i].values[k]);
        turn[k] = pack_pair(pair.x, pair.y);
      }
    }
  }

  template <int kCount>
  __device__ void store_turns(int half, int begin, const Words* words) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) store_words(half, begin + 32 * i, words[i][half]);
  }
};

}  // namespace flux::cuda::hopper::linear
