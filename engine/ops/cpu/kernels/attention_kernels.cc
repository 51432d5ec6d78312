#include "ops/cpu/kernels/attention_kernels.h"

#include "ops/cpu/kernels/operands.h"

/// Attention with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022): a tile of
/// query rows meets one block of keys after the other and keeps each row's largest score, its sum
/// of weights and its weighted sum of values, rescaled when a larger score comes.
///
/// Both products, Q K^T and P V, are the micro-kernel of operands.h. Where operands are pairs of
/// bfloat16, the weights P are rounded to bfloat16.
namespace flux::cpu::FLUX_ISA {
namespace {

constexpr int64_t kTileRows = 48;
constexpr int64_t kBlockKeys = 256;
/// Distance between rows of scores; not a power of two, so that the rows that a micro-kernel reads
/// lie in different cache sets.
constexpr int64_t kScoreStride = kBlockKeys + 16;
static_assert(kTileRows % kRows == 0 && kBlockKeys % kColumns == 0);

constexpr float kLog2E = 1.44269504f;

constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

/// Layout of a packed block: the keys' panels, each [depth of head_dim][kColumns keys], then the
/// values', each [depth of the block's keys][kColumns of head_dim]. Missing values and columns are
/// zero; missing keys repeat the last one: their scores are masked.
template <typename T>
struct Block {
  using Operand = OperandOf<T>;

  static int64_t key_operands(int64_t head_dim) { return kBlockKeys * depth_of<Operand>(head_dim); }
  static int64_t value_operands(int64_t head_dim) {
    return depth_of<Operand>(kBlockKeys) * round_up(head_dim, kColumns);
  }
  static int64_t bytes(int64_t head_dim) {
    const int64_t operands = key_operands(head_dim) + value_operands(head_dim);
    return round_up(operands * static_cast<int64_t>(sizeof(Operand)), 64);
  }

  static void pack(const T* k, int64_t k_stride, const T* v, int64_t v_stride, int64_t keys,
                   int64_t head_dim, std::byte* block) {
    auto* to = reinterpret_cast<Operand*>(block);
    const int64_t depth = depth_of<Operand>(head_dim);
    for (int64_t panel = 0; panel < keys; panel += kColumns, to += depth * kColumns) {
      for (int64_t c = 0; c < kColumns; c += kLanes) {
        const T* columns[kLanes];
        for (int64_t i = 0; i < kLanes; ++i) {
          const int64_t key = panel + c + i;
          columns[i] = k + (key < keys ? key : keys - 1) * k_stride;
        }
        pack_side_by_side<kLanes>(columns, head_dim, depth, to + c, kColumns);
      }
    }
    to = reinterpret_cast<Operand*>(block) + key_operands(head_dim);
    const int64_t key_depth = depth_of<Operand>(round_up(keys, kColumns));
    for (int64_t panel = 0; panel < head_dim; panel += kColumns, to += key_depth * kColumns) {
      const int64_t columns = head_dim - panel < kColumns ? head_dim - panel : kColumns;
      pack_values(v + panel, v_stride, keys, columns, key_depth, to);
    }
  }

 private:
  static constexpr int64_t kDepth = kDepthOf<Operand>;

  static void pack_values(const T* v, int64_t stride, int64_t keys, int64_t columns, int64_t depth,
                          Operand* to) {
    int64_t i = 0;
    if (columns == kColumns) {
      for (; (i + 1) * kDepth <= keys; ++i, to += kColumns) {
        for (int64_t c = 0; c < kColumns; c += kLanes)
          pack_row(v + i * kDepth * stride + c, stride, to + c);
      }
    }
    for (; i < depth; ++i, to += kColumns) {
      for (int64_t c = 0; c < kColumns; ++c) {
        const bool real = c < columns;
        to[c] = operand_at<Operand>(real ? v + c : v, stride, i, real ? keys : 0);
      }
    }
  }

  FLUX_INLINE static void pack_row(const T* v, int64_t, float* to) { store(to, load(v)); }
  FLUX_INLINE static void pack_row(const T* v, int64_t stride, Pair* to) {
    VecHalf low;
    VecHalf high;
    __builtin_memcpy(&low, v, sizeof(low));
    __builtin_memcpy(&high, v + stride, sizeof(high));
    const VecUint pairs = widen(low) | (widen(high) << 16);
    __builtin_memcpy(to, &pairs, sizeof(pairs));
  }
};

/// Scratch memory of one tile.
template <typename Operand>
struct Scratch {
  Operand* q;      // [kTileRows / kRows][depth of head_dim][kRows]
  float* scores;   // [kTileRows][kScoreStride]; the weights replace them in place
  float* sums;     // [kTileRows][head_dim rounded up to kColumns]
  float* largest;  // [kTileRows], largest exponent so far
  float* total;    // [kTileRows], sum of weights so far
  float* factor;   // [kTileRows], factor by which the last block scales earlier sums

  Scratch(std::byte* memory, int64_t head_dim) {
    scores = reinterpret_cast<float*>(memory);
    sums = scores + kTileRows * kScoreStride;
    largest = sums + kTileRows * round_up(head_dim, kColumns);
    total = largest + kTileRows;
    factor = total + kTileRows;
    q = reinterpret_cast<Operand*>(factor + kTileRows);
  }
  static int64_t bytes(int64_t head_dim) {
    const int64_t floats = kTileRows * (kScoreStride + round_up(head_dim, kColumns) + 3);
    return 4 * (floats + kTileRows * depth_of<Operand>(head_dim));
  }
};

/// Scores of a row with the keys of a block, and how they become exponents of 2.
struct RowScores {
  float* scores;
  int64_t keys;         // keys that the row sees; later ones are masked
  int64_t padded_keys;  // keys of the block, padding included
  const float* bias;    // for the block's first key, or null
  float scale;
};

/// Prepares scores to become exponents of 2: returns the factor that the caller still has to apply.
/// Masked scores become -inf.
FLUX_INLINE float prepare_row(const RowScores& row) {
  float factor = row.scale * kLog2E;
  if (row.bias || !(row.scale > 0.0f)) {
    for_each_vec(row.keys, [&](int64_t i, auto lanes) {
      Vec score = load(row.scores + i, lanes) * row.scale;
      if (row.bias) score += load(row.bias + i, lanes);
      store(row.scores + i, score, lanes);
    });
    factor = kLog2E;
  }
  for (int64_t i = row.keys; i < row.padded_keys; ++i) row.scores[i] = -__builtin_inff();
  return factor;
}

FLUX_INLINE void store_weights(float* row, int64_t i, Vec weights, float) {
  store(row + i, weights);
}
#if defined(__AVX512BF16__)
FLUX_INLINE void store_weights(float* row, int64_t i, Vec weights, Pair) {
  // Weights replace scores in place: two bytes for each four that have been read.
  const VecHalf narrow = to_bfloat16(weights);
  __builtin_memcpy(reinterpret_cast<std::byte*>(row) + 2 * i, &narrow, sizeof(narrow));
}
#endif

/// Returns 2^exponent for an exponent that is hardly above zero, to a relative error of 1e-7, or
/// 1e-4 where weights are rounded to bfloat16. Masked keys must weigh nothing: 2^-inf is zero.
template <typename Operand>
FLUX_INLINE Vec weight_of(Vec exponent) {
#if defined(FLUX_AVX512)
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  const Vec n = (Vec)_mm512_maskz_roundscale_ps(kAllLanes, (__m512)exponent, kNearest);
  const Vec f = exponent - n;
  Vec p;
  if constexpr (std::is_same_v<Operand, Pair>) {
    p = splat(0.0551716601f);
    p = p * f + 0.242611138f;
    p = p * f + 0.693260989f;
    p = p * f + 0.999928073f;
  } else {
    p = splat(1.3276471e-3f);
    p = p * f + 9.6755416e-3f;
    p = p * f + 5.55071328e-2f;
    p = p * f + 2.40221197e-1f;
    p = p * f + 6.93146967e-1f;
    p = p * f + 1.0f;
  }
  // Where the exponent is -inf, f and p are NaN; scaled by 2^-inf they are zero by definition.
  return (Vec)_mm512_maskz_scalef_ps(kAllLanes, (__m512)p, (__m512)n);
#else
  // Results below the normal numbers become zero; -inf is NaN on the way there.
  const Vec shifted = exponent + kRoundingMagic;
  const Vec weight = exp2_parts(shifted, exponent - (shifted - kRoundingMagic));
  return exponent < -126.0f ? Vec{} : weight;
#endif
}

/// Step of the online softmax: scores become weights, and the row's largest exponent, total and
/// factor follow. The largest exponent is rounded as one number, so its error cancels out.
template <typename Operand>
FLUX_INLINE void update_row(const RowScores& row, float& largest_exponent, float& total,
                            float& factor) {
  const float slope = prepare_row(row);
  Vec most[2] = {splat(-__builtin_inff()), splat(-__builtin_inff())};
  for (int64_t i = 0; i < row.padded_keys; i += 2 * kLanes) {
    most[0] = max(most[0], load(row.scores + i));
    most[1] = max(most[1], load(row.scores + i + kLanes));
  }
  const float found = largest(max(most[0], most[1])) * slope;
  const float now = found > largest_exponent ? found : largest_exponent;
  Vec sums[2] = {};
  for (int64_t i = 0; i < row.padded_keys; i += 2 * kLanes) {
    for (int j = 0; j < 2; ++j) {
      const Vec weights = weight_of<Operand>(load(row.scores + i + j * kLanes) * slope - now);
      sums[j] += weights;
      store_weights(row.scores, i + j * kLanes, weights, Operand{});
    }
  }
  factor = weight_of<Operand>(splat(largest_exponent - now))[0];
  total = total * factor + sum(sums[0] + sums[1]);
  largest_exponent = now;
}

/// Runs one tile through the blocks.
template <typename T>
class TileRun {
 public:
  using Operand = OperandOf<T>;

  explicit TileRun(const AttentionTile<T>& tile)
      : tile_(tile),
        rows_(round_up(tile.rows, kRows)),
        depth_(depth_of<Operand>(tile.head_dim)),
        width_(round_up(tile.head_dim, kColumns)),
        scratch_(tile.scratch, tile.head_dim) {}

  void run() {
    load_queries();
    const int64_t end = tile_.first_row + tile_.rows;
    const int64_t seen = tile_.causal && end < tile_.k_tokens ? end : tile_.k_tokens;
    const std::byte* block = tile_.keys_and_values;
    for (int64_t first = 0; first < seen; first += kBlockKeys) {
      const int64_t left = tile_.k_tokens - first;
      const int64_t keys = left < kBlockKeys ? left : kBlockKeys;
      const auto* panels = reinterpret_cast<const Operand*>(block);
      multiply_keys(panels, keys);
      weigh(first, keys);
      add_values(panels + Block<T>::key_operands(tile_.head_dim), first, keys);
      block += Block<T>::bytes(tile_.head_dim);
    }
    store_result();
  }

 private:
  /// Packs the queries. Rows past the tile's last repeat its first: they are computed and dropped.
  void load_queries() {
    for (int64_t first = 0; first < rows_; first += kRows) {
      const T* rows[kRows];
      for (int64_t i = 0; i < kRows; ++i) {
        rows[i] = tile_.q + (first + i < tile_.rows ? first + i : 0) * tile_.q_stride;
      }
      pack_side_by_side<kRows>(rows, tile_.head_dim, depth_, scratch_.q + first * depth_, kRows);
    }
    for (int64_t row = 0; row < rows_; ++row) {
      scratch_.largest[row] = -__builtin_inff();
      scratch_.total[row] = 0.0f;
    }
  }

  /// Computes scores = Q K^T.
  void multiply_keys(const Operand* panel, int64_t keys) {
    for (int64_t key = 0; key < keys; key += kColumns, panel += depth_ * kColumns) {
      for (int64_t row = 0; row < rows_; row += kRows) {
        micro_kernel<1, kRows>(scratch_.q + row * depth_, panel, depth_, nullptr,
                               scratch_.scores + row * kScoreStride + key, kScoreStride);
      }
    }
  }

  /// Turns the scores of the block that begins at key `first` into weights.
  void weigh(int64_t first, int64_t keys) {
    for (int64_t row = 0; row < rows_; ++row) {
      RowScores scores = {scratch_.scores + row * kScoreStride, keys, round_up(keys, kColumns),
                          nullptr, tile_.scale};
      const int64_t causal_keys = tile_.first_row + row - first + 1;
      if (tile_.causal && causal_keys < keys) scores.keys = causal_keys > 0 ? causal_keys : 0;
      if (tile_.bias && row < tile_.rows) scores.bias = tile_.bias - row + first;
      update_row<Operand>(scores, scratch_.largest[row], scratch_.total[row], scratch_.factor[row]);
    }
  }

  /// Computes sums = factor sums + P V.
  void add_values(const Operand* panel, int64_t first, int64_t keys) {
    const auto* weights = reinterpret_cast<const Operand*>(scratch_.scores);
    const int64_t depth = depth_of<Operand>(round_up(keys, kColumns));
    for (int64_t column = 0; column < width_; column += kColumns, panel += depth * kColumns) {
      for (int64_t row = 0; row < rows_; row += kRows) {
        micro_kernel<kScoreStride, 1>(weights + row * kScoreStride, panel, depth,
                                      first == 0 ? nullptr : scratch_.factor + row,
                                      scratch_.sums + row * width_ + column, width_);
      }
    }
  }

  void store_result() {
    for (int64_t row = 0; row < tile_.rows; ++row) {
      const float factor = 1.0f / scratch_.total[row];
      const float* sums = scratch_.sums + row * width_;
      T* out = tile_.out + row * tile_.out_stride;
      for_each_vec(tile_.head_dim, [&](int64_t i, auto lanes) {
        store(out + i, load(sums + i, lanes) * factor, lanes);
      });
    }
  }

  const AttentionTile<T>& tile_;
  int64_t rows_;
  int64_t depth_;
  int64_t width_;
  Scratch<Operand> scratch_;
};

template <typename T>
void run_tile(const AttentionTile<T>& tile) {
  TileRun<T>(tile).run();
}

}  // namespace

template <typename T>
AttentionKernels<T> attention_kernels() {
  return {kTileRows,      kBlockKeys, Block<T>::bytes, Scratch<OperandOf<T>>::bytes,
          Block<T>::pack, run_tile<T>};
}

template AttentionKernels<float> attention_kernels<float>();
template AttentionKernels<BFloat16> attention_kernels<BFloat16>();

}  // namespace flux::cpu::FLUX_ISA
