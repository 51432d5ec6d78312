#pragma once

#include "ops/cpu/kernels/kernels.h"

namespace flux::cpu::FLUX_ISA {

/// Stores a tile of sums: the end of linear and conv2d.
template <typename T>
void store_tile(const TileEpilogue<T>& tile);

extern template void store_tile<float>(const TileEpilogue<float>& tile);
extern template void store_tile<BFloat16>(const TileEpilogue<BFloat16>& tile);

}  // namespace flux::cpu::FLUX_ISA
