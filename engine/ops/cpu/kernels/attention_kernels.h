#pragma once

#include "ops/cpu/kernels/kernels.h"

namespace flux::cpu::FLUX_ISA {

/// The attention kernels of this instruction set for T.
template <typename T>
AttentionKernels<T> attention_kernels();

extern template AttentionKernels<float> attention_kernels<float>();
extern template AttentionKernels<BFloat16> attention_kernels<BFloat16>();

}  // namespace flux::cpu::FLUX_ISA
