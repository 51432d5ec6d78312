#include "ops/backend.h"

#include "device/cuda_library.h"
#include "ops/cpu/cpu_backend.h"

namespace flux {

Backend& backend_for(const Device& device) {
  if (!device.is_cpu()) return cuda_library().backend(device.index);
  static cpu::CpuBackend backend;
  return backend;
}

}  // namespace flux
