#include "ops/cpu/kernels/product_kernels.h"

#include "ops/cpu/kernels/epilogue.h"
#include "ops/cpu/kernels/operands.h"

/// The products of linear layers: groups of rows meet a strip of two panels of columns by the
/// micro-kernel of operands.h.
///
/// The scheme kStrassen computes the 2x2 submatrices of a group, a strip and a block (12 rows, 32
/// columns and half of the depth each, with AVX-512) by 7 products instead of 8: Strassen (1969),
/// in Winograd's form with 15 additions (1971). Sums of rows are made when the rows are packed,
/// sums of weights again for each tile of rows, as keeping them would take 7/4 of the memory.
namespace flux::cpu::FLUX_ISA {
namespace {

constexpr int64_t kGroupRows = 2 * kRows;
constexpr int64_t kStripColumns = 2 * kColumns;
constexpr int64_t kTile = kRows * kColumns;  // sums of one micro-kernel
constexpr int kProducts = 7;

/// Packs weights into two panels, [2][depth][kColumns]. Columns past the last repeat it: their
/// results are never read.
void pack_weights(const float* plain, int64_t columns, int64_t depth, float* strip) {
  for (int64_t first = 0; first < kStripColumns; first += kLanes) {
    const float* rows[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) {
      rows[i] = plain + (first + i < columns ? first + i : columns - 1) * depth;
    }
    float* panel = strip + first / kColumns * depth * kColumns;
    pack_side_by_side<kLanes>(rows, depth, depth, panel + first % kColumns, kColumns);
  }
}

/// A packed group is [depth][kRows] for each kRows rows in the plain scheme, and
/// [kProducts][half][kRows] in Strassen's.
int64_t group_floats(ProductScheme scheme, int64_t depth) {
  return scheme == ProductScheme::kStrassen ? kProducts * kRows * depth / 2 : kGroupRows * depth;
}

/// Packs `count` of kRows rows; rows past the last repeat it.
void pack_tile_rows(const float* x, int64_t stride, int64_t count, int64_t depth, float* to) {
  const float* rows[kRows];
  for (int64_t i = 0; i < kRows; ++i) rows[i] = x + (i < count ? i : count - 1) * stride;
  pack_side_by_side<kRows>(rows, depth, depth, to, kRows);
}

/// Packs kGroupRows rows and their sums.
void pack_strassen_rows(const float* x, int64_t stride, int64_t half, float* to) {
  const int64_t size = half * kRows;
  const float* lower_rows = x + kRows * stride;
  float* a21 = to + 4 * size;  // until s1 replaces it
  pack_tile_rows(x, stride, kRows, half, to);
  pack_tile_rows(x + half, stride, kRows, half, to + size);
  pack_tile_rows(lower_rows, stride, kRows, half, a21);
  pack_tile_rows(lower_rows + half, stride, kRows, half, to + 3 * size);
  for_each_vec(size, [&](int64_t i, auto lanes) {
    const Vec a11 = load(to + i, lanes);
    const Vec lower = load(a21 + i, lanes);
    const Vec s1 = lower + load(to + 3 * size + i, lanes);
    const Vec s2 = s1 - a11;
    store(to + 2 * size + i, load(to + size + i, lanes) - s2, lanes);
    store(to + 4 * size + i, s1, lanes);
    store(to + 5 * size + i, s2, lanes);
    store(to + 6 * size + i, a11 - lower, lanes);
  });
}

void pack_rows(ProductScheme scheme, const float* x, int64_t stride, int64_t rows, int64_t depth,
               float* group) {
  // Prefetching goes row by row: the processor does not predict the transposing access.
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < depth; i += 16) __builtin_prefetch(x + row * stride + i, 0, 2);
  }
  if (scheme == ProductScheme::kStrassen && rows == kGroupRows) {
    return pack_strassen_rows(x, stride, depth / 2, group);
  }
  for (int64_t first = 0; first < rows; first += kRows) {
    pack_tile_rows(x + first * stride, stride, rows - first, depth, group + first * depth);
  }
}

/// The submatrices of a strip that Strassen's scheme multiplies, in the order of the packed rows.
struct StrassenPanels {
  const float* b[kProducts];

  /// left and right are the strip's panels; t has room for two panels.
  StrassenPanels(const float* left, const float* right, int64_t half, float* t) {
    const int64_t size = half * kColumns;
    b[0] = left;
    b[1] = left + size;
    b[2] = right + size;
    for (int i = 0; i < 4; ++i) b[3 + i] = t + i * size;
    for (int64_t i = 0; i < size; i += kLanes) {
      const Vec b11 = load(left + i);
      const Vec b21 = load(left + size + i);
      const Vec b12 = load(right + i);
      const Vec b22 = load(right + size + i);
      const Vec t1 = b12 - b11;
      const Vec t2 = b22 - t1;
      store(t + i, t2 - b21);
      store(t + size + i, t1);
      store(t + 2 * size + i, t2);
      store(t + 3 * size + i, b22 - b12);
    }
  }
};

/// Combines a group's products, [kProducts][kRows][kColumns], to its sums,
/// [kGroupRows][kStripColumns]; kAccumulate adds them to the sums of earlier blocks.
template <bool kAccumulate>
FLUX_INLINE void combine(const float* products, float* sums) {
  const auto put = [](float* to, Vec sum) __attribute__((always_inline)) {
    store(to, kAccumulate ? sum + load(to) : sum);
  };
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t c = 0; c < kColumns; c += kLanes) {
      const float* p = products + row * kColumns + c;
      const Vec p1 = load(p);
      const Vec u2 = p1 + load(p + 5 * kTile);
      const Vec u3 = u2 + load(p + 6 * kTile);
      const Vec p5 = load(p + 4 * kTile);
      float* top = sums + row * kStripColumns + c;
      float* bottom = top + kRows * kStripColumns;
      put(top, p1 + load(p + kTile));
      put(top + kColumns, u2 + p5 + load(p + 2 * kTile));
      put(bottom, u3 - load(p + 3 * kTile));
      put(bottom + kColumns, u3 + p5);
    }
  }
}

/// Runs the micro-kernel for the first `rows` of kRows.
FLUX_INLINE void multiply(const float* a, const float* b, int64_t depth, int64_t rows,
                          const float* factors, float* sums) {
  constexpr int kFew = (kRows + 2) / 3;
  if (rows > 2 * kFew) {
    micro_kernel<1, kRows>(a, b, depth, factors, sums, kStripColumns);
  } else if (rows > kFew) {
    micro_kernel<1, kRows, 2 * kFew>(a, b, depth, factors, sums, kStripColumns);
  } else {
    micro_kernel<1, kRows, kFew>(a, b, depth, factors, sums, kStripColumns);
  }
}

/// Distance between the sums of two groups: zero if one block has the whole depth, because the sums
/// are stored at once.
template <typename T>
int64_t sums_step(const ProductStrip<T>& strip) {
  return strip.first && strip.last ? 0 : kGroupRows * kStripColumns;
}

/// Prefetches the cache lines that store_rows() will read and write: it uses few elements of each
/// of many lines, and would wait for memory.
template <typename T>
void prefetch_rows(const TileEpilogue<T>& tile, int64_t first, int64_t rows) {
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  for (int64_t row = first; row < first + rows; ++row) {
    for (int64_t column = 0; column < tile.columns; column += kLine) {
      __builtin_prefetch(tile.out + row * tile.out_stride + column, 1);
      if (tile.residual) __builtin_prefetch(tile.residual + row * tile.residual_stride + column);
    }
  }
}

template <typename T>
void store_rows(const TileEpilogue<T>& tile, const float* sums, int64_t first, int64_t rows) {
  TileEpilogue<T> rest = tile;
  rest.sums = sums;
  rest.sums_stride = kStripColumns;
  rest.rows = rows;
  if (rest.residual) rest.residual += first * rest.residual_stride;
  rest.out += first * rest.out_stride;
  rest.row += first;
  store_tile(rest);
}

int64_t scratch_floats(int64_t depth) { return kStripColumns * depth + kProducts * kTile; }

/// Computes the first `groups` groups of rows of the tile.
template <typename T>
void run_strassen(const ProductStrip<T>& strip, int64_t groups) {
  const int64_t half = strip.depth / 2;
  const StrassenPanels panels(strip.left, strip.right, half, strip.scratch);
  float* products = strip.scratch + kStripColumns * strip.depth;
  const float* a = strip.rows;
  for (int64_t group = 0; group < groups; ++group) {
    float* sums = strip.sums + group * sums_step(strip);
    if (strip.last) prefetch_rows(strip.epilogue, group * kGroupRows, kGroupRows);
    for (int i = 0; i < kProducts; ++i, a += half * kRows) {
      micro_kernel<1, kRows>(a, panels.b[i], half, nullptr, products + i * kTile, kColumns);
    }
    if (strip.first) {
      combine<false>(products, sums);
    } else {
      combine<true>(products, sums);
    }
    if (strip.last) store_rows(strip.epilogue, sums, group * kGroupRows, kGroupRows);
  }
}

/// Computes the rows of a tile from `first` on, a multiple of kGroupRows.
template <typename T>
void run_plain(const ProductStrip<T>& strip, int64_t first) {
  float ones[kRows];
  for (float& one : ones) one = 1.0f;
  const float* factors = strip.first ? nullptr : ones;
  const float* a = strip.rows + first / kGroupRows * group_floats(strip.scheme, strip.depth);
  for (int64_t row = first; row < strip.epilogue.rows; row += kRows, a += strip.depth * kRows) {
    const int64_t left = strip.epilogue.rows - row;
    const int64_t rows = left < kRows ? left : kRows;
    float* sums =
        strip.sums + row / kGroupRows * sums_step(strip) + row % kGroupRows * kStripColumns;
    if (strip.last) prefetch_rows(strip.epilogue, row, rows);
    multiply(a, strip.left, strip.depth, rows, factors, sums);
    multiply(a, strip.right, strip.depth, rows, factors, sums + kColumns);
    if (strip.last) store_rows(strip.epilogue, sums, row, rows);
  }
}

template <typename T>
void run(const ProductStrip<T>& strip) {
  const bool strassen = strip.scheme == ProductScheme::kStrassen;
  const int64_t groups = strassen ? strip.epilogue.rows / kGroupRows : 0;
  if (groups > 0) run_strassen(strip, groups);
  run_plain(strip, groups * kGroupRows);
}

}  // namespace

ProductKernels product_kernels() {
  return {kGroupRows, kColumns,       kStripColumns, pack_weights, group_floats,
          pack_rows,  scratch_floats, run<float>,    run<BFloat16>};
}

}  // namespace flux::cpu::FLUX_ISA
