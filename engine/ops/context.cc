#include "ops/context.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <string>
#include <utility>

#include "ops/backend.h"
#include "support/cpu_quota.h"
#include "support/error.h"

namespace flux {

Context::Context(Backend& backend, int threads)
    : backend_(&backend),
      threads_(threads),
      state_(backend.make_state()),
      workspace_(backend),
      memory_(std::make_shared<MemoryPool>(backend)) {
  check(threads >= 1 && threads <= 1024, ErrorCode::kInvalidArgument,
        "threads = {}: must be from 1 to 1024", threads);
}

void Context::hand_out(std::string_view name, const Tensor& value) {
  trace_(name, to_host(*this, value));
}

void Context::poll_cancel() const {
  if (cancelled_ && cancelled_()) fail(ErrorCode::kCancelled, "cancelled");
}

int default_threads() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return 1;
  // Two hardware threads of one core share its vector units: a second one adds nothing.
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    std::ifstream siblings(
        fmt::format("/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list", cpu));
    std::string core;
    if (!std::getline(siblings, core)) core = std::to_string(cpu);
    cores.insert(core);
  }
  // A container's share of a large machine: more threads would only be stopped in turn.
  const double quota = cpu_quota().value_or(1024);
  return std::clamp(static_cast<int>(std::min<double>(std::ceil(quota), cores.size())), 1, 1024);
}

}  // namespace flux
