#pragma once

#include "ops/cpu/kernels/kernels.h"

namespace flux::cpu::FLUX_ISA {

/// Applies the epilogue of linear and conv2d to a tile of sums, and stores it.
template <typename T>
void store_tile(const TileEpilogue<T>& tile);

extern template void store_tile<float>(const TileEpilogue<float>& tile);
extern template void store_tile<BFloat16>(const TileEpilogue<BFloat16>& tile);

}  // namespace flux::cpu::FLUX_ISA
