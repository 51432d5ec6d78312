#pragma once

#include "ops/cpu/kernels/kernels.h"

namespace flux::cpu::FLUX_ISA {

/// The kernels of linear layers of this instruction set.
ProductKernels product_kernels();

}  // namespace flux::cpu::FLUX_ISA
