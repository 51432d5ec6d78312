#include "ops/cpu/cpu_backend.h"

namespace flux::cpu {

Device CpuBackend::device() const { return Device{}; }

bool CpuBackend::supports(DType dtype) const {
  return dtype == DType::kF32 || dtype == DType::kBF16;
}

}  // namespace flux::cpu
