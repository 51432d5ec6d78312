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

void fail_out_of_memory(const Backend& backend, size_t bytes, std::string_view what) {
  const int64_t available = backend.available_bytes();
  const bool known = available != std::numeric_limits<int64_t>::max();
  fail(
      ErrorCode::kUnavailable,
      "out of memory on {}: {} bytes wanted for {}{}; draw smaller or fewer images, or free memory "
      "there",
      to_string(backend.device()), bytes, what,
      known ? fmt::format(", {} free", available) : std::string());
}

Backend& backend_for(const Device& device) {
  if (!device.is_cpu()) return cuda_library().backend(device.index);
  static cpu::CpuBackend backend;
  return backend;
}

}  // namespace flux
