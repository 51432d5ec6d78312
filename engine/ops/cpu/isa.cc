#include "ops/cpu/isa.h"

#include <atomic>

#include "support/error.h"

namespace flux::cpu {

namespace isa_baseline {
const Kernels& kernels();
}
#if defined(__x86_64__)
namespace isa_avx2 {
const Kernels& kernels();
}
namespace isa_avx512 {
const Kernels& kernels();
}
namespace isa_avx512_vnni {
const Kernels& kernels();
}
namespace isa_avx512_bf16 {
const Kernels& kernels();
}
#endif

namespace {

const Kernels& kernels_of(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kBaseline:
      return isa_baseline::kernels();
    case Isa::kAvx2:
      return isa_avx2::kernels();
    case Isa::kAvx512:
      return isa_avx512::kernels();
    case Isa::kAvx512Vnni:
      return isa_avx512_vnni::kernels();
    case Isa::kAvx512Bf16:
      return isa_avx512_bf16::kernels();
  }
#endif
  check(isa == Isa::kBaseline, ErrorCode::kUnsupported,
        "kernels for another architecture's instruction set were requested");
  return isa_baseline::kernels();
}

std::atomic<const Kernels*>& chosen() {
  static std::atomic<const Kernels*> kernels = &kernels_of(best_isa());
  return kernels;
}

}  // namespace

Isa best_isa() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    if (!__builtin_cpu_supports("avx512vnni")) return Isa::kAvx512;
    return __builtin_cpu_supports("avx512bf16") ? Isa::kAvx512Bf16 : Isa::kAvx512Vnni;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::kAvx2;
#endif
  return Isa::kBaseline;
}

const Kernels& kernels() { return *chosen().load(std::memory_order_relaxed); }

void use_isa(Isa isa) {
  check(isa <= best_isa(), ErrorCode::kUnsupported,
        "this processor does not have the requested instruction set, number {}",
        static_cast<int>(isa));
  chosen().store(&kernels_of(isa), std::memory_order_relaxed);
}

}  // namespace flux::cpu
