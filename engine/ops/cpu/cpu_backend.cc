#include "ops/cpu/cpu_backend.h"

#include <cstdlib>

#include "support/integer.h"

namespace flux::cpu {

Device CpuBackend::device() const { return Device{}; }

std::shared_ptr<std::byte> CpuBackend::allocate(size_t bytes) const {
  constexpr size_t kAlignment = 64;
  void* memory = std::aligned_alloc(kAlignment, round_up(bytes, kAlignment));
  if (memory == nullptr) return nullptr;
  return {static_cast<std::byte*>(memory), [](std::byte* address) { std::free(address); }};
}

bool CpuBackend::supports(DType dtype) const {
  return dtype == DType::kF32 || dtype == DType::kBF16;
}

}  // namespace flux::cpu
