#include "support/default_threads.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <string>

#include "support/cpu_quota.h"

namespace flux {

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
