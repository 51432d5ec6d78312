#include "models/flux1/conditioning_cache.h"

#include <utility>

namespace flux {
namespace {

/// The most steps of all entries together: nine images of 28 steps.
constexpr size_t kMostSteps = 256;

}  // namespace

void ConditioningCache::share(Context& ctx, std::span<TransformerInput> rows) {
  ++steps_;
  for (TransformerInput& row : rows) {
    if (row.clock.steps() < 2) continue;
    const ConstTensor pooled = to_host(ctx, row.pooled_projections);
    Key key{std::string(pooled.data<char>(), static_cast<size_t>(pooled.bytes())),
            row.guidance,
            *row.clock.timesteps,
            {}};
    for (const AppliedAdapter& adapter : row.adapters) {
      key.adapters.push_back({adapter.weights, adapter.scale});
    }
    row.state = find(std::move(key));
  }
}

StepState* ConditioningCache::find(Key key) {
  size_t steps = 0;
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    if (entry->key == key) {
      entry->last_used = steps_;
      return &entry->state;
    }
    if (steps_ - entry->last_used > patience_) {
      entry = entries_.erase(entry);
    } else {
      steps += entry->key.timesteps.size();
      ++entry;
    }
  }
  if (steps + key.timesteps.size() > kMostSteps) return nullptr;
  entries_.push_back({std::move(key), {}, steps_});
  return &entries_.back().state;
}

}  // namespace flux
