#pragma once

#include "ops/cpu/kernels/kernels.h"

namespace flux::cpu::FLUX_ISA {

Int8Kernels int8_kernels();

}  // namespace flux::cpu::FLUX_ISA
