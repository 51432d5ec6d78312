#include "ops/backend.h"

#include "ops/cpu/cpu_backend.h"
#include "support/error.h"

namespace flux {

Backend& backend_for(const Device& device) {
  check(device.is_cpu(), ErrorCode::kUnsupported,
        "device {}: this build computes on the CPU only; use the device cpu", to_string(device));
  static cpu::CpuBackend backend;
  return backend;
}

}  // namespace flux
