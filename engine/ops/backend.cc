#include "ops/backend.h"

#include "device/cuda_library.h"
#include "ops/cpu/cpu_backend.h"
#include "support/error.h"

namespace flux {

void Backend::limit_memory(int64_t bytes) {
  fail(ErrorCode::kUnsupported,
       "memory on {} cannot be limited to {} bytes: only that of a GPU can; leave the limit out",
       to_string(device()), bytes);
}

Backend& backend_for(const Device& device) {
  if (!device.is_cpu()) return cuda_library().backend(device.index);
  static cpu::CpuBackend backend;
  return backend;
}

}  // namespace flux
