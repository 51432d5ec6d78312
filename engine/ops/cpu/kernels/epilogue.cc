#include "ops/cpu/kernels/epilogue.h"

#include "ops/cpu/kernels/activations.h"

namespace flux::cpu::FLUX_ISA {
namespace {

template <typename T, typename F>
FLUX_INLINE void store_row(const TileEpilogue<T>& tile, int64_t row, const F& activation) {
  const float* sums = tile.sums + row * tile.sums_stride;
  const T* residual = tile.residual ? tile.residual + row * tile.residual_stride : nullptr;
  T* out = tile.out + row * tile.out_stride;
  for_each_vec(tile.columns, [&](int64_t i, auto lanes) {
    Vec y = load(sums + i, lanes);
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
