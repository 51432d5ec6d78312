#include "pipeline/memory_pressure.h"

namespace flux::memory_pressure {

bool relieve(Reliefs reliefs, size_t& next, const Error& because) {
  for (; next < reliefs.size(); ++next) {
    const std::string done = reliefs[next].apply();
    if (done.empty()) continue;
    log(reliefs[next].level, fmt::format("{}: {}", done, because.what()));
    return true;
  }
  return false;
}

}  // namespace flux::memory_pressure
