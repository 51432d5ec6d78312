#include "ops/cpu/kernels/epilogue.h"

#include "ops/cpu/kernels/activations.h"
#include "ops/cpu/kernels/operands.h"

namespace flux::cpu::FLUX_ISA {
namespace {

/// What a change of weights adds to the columns [column, column + kLanes) of a row, but for gains.
template <typename T>
FLUX_INLINE Vec product_of(const TermProduct<T>& term, int64_t row, int64_t column) {
  const T* x = term.x + row * term.x_stride;
  if (!term.up) return term.scale * load(x + (column - term.begin));
  const float* up = term.up + (column - term.begin);
  const int64_t stride = term.end - term.begin;
  Vec total[2] = {};  // two chains: an addition takes four cycles
  int64_t i = 0;
  for (; i + 2 <= term.rank; i += 2) {
    total[0] += to_float(x[i]) * load(up + i * stride);
    total[1] += to_float(x[i + 1]) * load(up + (i + 1) * stride);
  }
  if (i < term.rank) total[0] += to_float(x[i]) * load(up + i * stride);
  return term.scale * (total[0] + total[1]);
}

/// Adds all changes of weights to the sums of such columns. Gains are of the sums without changes.
template <typename T>
FLUX_INLINE Vec with_terms(const TileEpilogue<T>& tile, int64_t row, int64_t column, Vec sums) {
  Vec total = sums;
  for (int64_t t = 0; t < tile.term_count; ++t) {
    const TermProduct<T>& term = tile.terms[t];
    if (!term.has(column)) continue;
    if (term.gains) total += term.scale * load(term.gains + (column - term.begin)) * sums;
    total += product_of(term, row, column);
  }
  return total;
}

template <typename T, typename F>
FLUX_INLINE void store_row(const TileEpilogue<T>& tile, int64_t row, const F& activation) {
  const float* sums = tile.sums + row * tile.sums_stride;
  const T* residual = tile.residual ? tile.residual + row * tile.residual_stride : nullptr;
  T* out = tile.out + row * tile.out_stride;
  for_each_vec(tile.columns, [&](int64_t i, auto lanes) {
    Vec y = load(sums + i, lanes);
    if (tile.term_count > 0) y = with_terms(tile, tile.row + row, tile.column + i, y);
    if (tile.bias) y += load(tile.bias + i, lanes);
    y = activation(y);
    if (tile.gate) y *= load(tile.gate + i, lanes);
    if (residual) y += load(residual + i, lanes);
    store(out + i, y, lanes);
  });
}

}  // namespace

template <typename T>
void store_tile(const TileEpilogue<T>& tile) {
  with_activation(tile.activation, [&](const auto& activation) {
    for (int64_t row = 0; row < tile.rows; ++row) store_row(tile, row, activation);
  });
}

template void store_tile<float>(const TileEpilogue<float>& tile);
template void store_tile<BFloat16>(const TileEpilogue<BFloat16>& tile);

}  // namespace flux::cpu::FLUX_ISA
