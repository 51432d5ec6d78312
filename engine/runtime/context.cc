#include "runtime/context.h"

#include "runtime/transfer.h"
#include "support/error.h"

namespace flux {

Context::Context(DeviceRuntime& runtime, int threads, std::shared_ptr<MemoryPool> shared)
    : runtime_(&runtime),
      is_profiled_(runtime.has_profiler()),
      device_(runtime.device()),
      threads_(threads),
      state_(runtime.make_state()),
      workspace_(runtime),
      memory_(std::make_shared<MemoryPool>(runtime, std::move(shared))) {
  check(threads >= 1 && threads <= 1024, ErrorCode::kInvalidArgument,
        "threads = {}: must be from 1 to 1024", threads);
}

void Context::hand_out(std::string_view name, const ConstTensor& value) {
  trace_(name, to_host(*this, value));
}

void Context::Range::open(const char* name, int64_t index) const {
  runtime_->push_range(index == kNoIndex ? name : fmt::format("{}.{}", name, index).c_str());
}

void Context::poll_cancel() const {
  if (cancelled_ && cancelled_()) fail(ErrorCode::kCancelled, "cancelled");
}

}  // namespace flux
