#include "triton/conditioning_cache.h"

namespace flux::triton {
namespace {

/// Steps of all entries together: nine images of 28 steps.
constexpr size_t kMostSteps = 256;
/// Executions that an entry is kept for without being asked for: images of many users take turns.
constexpr int64_t kPatience = 16;

}  // namespace

KeptConditioning* ConditioningCache::find(Key key) {
  size_t steps = 0;
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    if (entry->key == key) {
      entry->last_used = executions_;
      return &entry->kept;
    }
    if (executions_ - entry->last_used > kPatience) {
      entry = entries_.erase(entry);
    } else {
      steps += entry->key.timesteps.size();
      ++entry;
    }
  }
  if (steps + key.timesteps.size() > kMostSteps) return nullptr;
  entries_.push_back({std::move(key), {}, executions_});
  return &entries_.back().kept;
}

}  // namespace flux::triton
