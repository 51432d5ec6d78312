#pragma once

#include "ops/cpu/kernels/kernels.h"

namespace flux::cpu {

/// The instruction sets that kernels are built for; each includes the ones before it.
enum class Isa {
  kBaseline,    // available on every processor of the architecture
  kAvx2,        // with FMA
  kAvx512,      // F, BW, CD, DQ, VL
  kAvx512Vnni,  // with dot products of int8
  kAvx512Bf16,  // and with dot products of bfloat16
};

/// The best instruction set that this processor has.
Isa best_isa();

/// The kernels in use: best_isa()'s unless use_isa() chose others.
const Kernels& kernels();

/// Chooses the kernels for the whole process, for tests and comparisons. Throws kUnsupported for
/// an instruction set that this processor does not have.
void use_isa(Isa isa);

}  // namespace flux::cpu
