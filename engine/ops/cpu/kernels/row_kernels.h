#pragma once

#include "ops/cpu/kernels/kernels.h"

namespace flux::cpu::FLUX_ISA {

/// The row kernels of this instruction set for T.
template <typename T>
RowKernels<T> row_kernels();

extern template RowKernels<float> row_kernels<float>();
extern template RowKernels<BFloat16> row_kernels<BFloat16>();

}  // namespace flux::cpu::FLUX_ISA
