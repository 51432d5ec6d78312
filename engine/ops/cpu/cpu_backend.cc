#include "ops/cpu/cpu_backend.h"

#include "support/host_memory.h"

namespace flux::cpu {

Device CpuBackend::device() const { return Device{}; }

std::shared_ptr<std::byte> CpuBackend::allocate(size_t bytes) const { return allocate_host(bytes); }

bool CpuBackend::supports(DType dtype) const {
  return dtype == DType::kF32 || dtype == DType::kBF16;
}

}  // namespace flux::cpu
