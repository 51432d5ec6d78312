#pragma once

#include "ops/cpu/kernels/kernels.h"

namespace flux::cpu::FLUX_ISA {

/// The Winograd kernels of this instruction set.
WinogradKernels winograd_kernels();

}  // namespace flux::cpu::FLUX_ISA
