#include "runtime/device_runtime.h"

#include "support/error.h"
#include "tensor/format.h"

namespace flux {

void DeviceRuntime::limit_memory(int64_t bytes) {
  fail(ErrorCode::kUnsupported,
       "memory on {} cannot be limited to {} bytes: only that of a GPU can; leave the limit out",
       device(), bytes);
}

void fail_out_of_memory(const DeviceRuntime& runtime, size_t bytes, std::string_view purpose) {
  const int64_t available = runtime.available_bytes();
  const bool known = available != std::numeric_limits<int64_t>::max();
  fail(ErrorCode::kUnavailable,
       "out of memory on {}: {} bytes wanted for {}{}; generate smaller or fewer images, or free "
       "memory there",
       runtime.device(), bytes, purpose,
       known ? fmt::format(", {} free", available) : std::string());
}

}  // namespace flux
