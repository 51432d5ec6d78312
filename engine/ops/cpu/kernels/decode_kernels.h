#pragma once

#include "ops/cpu/kernels/kernels.h"

namespace flux::cpu::FLUX_ISA {

DecodeKernels decode_kernels();

}  // namespace flux::cpu::FLUX_ISA
