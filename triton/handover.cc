#include "triton/handover.h"

#include <map>
#include <mutex>

namespace flux::triton {
namespace {

std::mutex g_mutex;

/// The handovers of all calls in flight, by the address of their outputs. Guarded by g_mutex.
std::map<const void*, Handover*>& handovers() {
  static std::map<const void*, Handover*> all;
  return all;
}

}  // namespace

Handover::Handover(const Tensor& output, std::shared_ptr<const Fence> ready)
    : output_(output.raw()), ready_(std::move(ready)) {
  const std::scoped_lock lock(g_mutex);
  handovers()[output_] = this;
}

Handover::~Handover() {
  const std::scoped_lock lock(g_mutex);
  handovers().erase(output_);
}

Handover* Handover::find(const Tensor& output) {
  const std::scoped_lock lock(g_mutex);
  const auto found = handovers().find(output.raw());
  return found == handovers().end() ? nullptr : found->second;
}

void Handover::take_part(Context& ctx) {
  wait_for(ctx, ready_.get());
  taken_ = true;
}

}  // namespace flux::triton
