#include "models/conditioning_cache.h"

#include "support/error.h"

namespace flux {
namespace {

/// Steps of all entries together: nine images of 28 steps.
constexpr size_t kMostSteps = 256;

}  // namespace

void ConditioningCache::forward(Context& ctx, const DitTransformer& model,
                                std::vector<TransformerInput> rows,
                                std::shared_ptr<const Fence>* nearly_done) {
  share(ctx, rows);
  try {
    model.forward(ctx, rows, nearly_done);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kCancelled) throw;
    // It may be half made; and where memory ran out, this step is worth more than later ones.
    for (TransformerInput& row : rows) row.kept = nullptr;
    finish(ctx);
    clear();
    if (error.code() != ErrorCode::kUnavailable) throw;
    ctx.workspace().release();  // of other sizes, there may be enough in it
    model.forward(ctx, rows, nearly_done);
  }
}

void ConditioningCache::share(Context& ctx, std::span<TransformerInput> rows) {
  ++forwards_;
  for (TransformerInput& row : rows) {
    if (row.timesteps.empty()) continue;
    const Tensor pooled = to_host(ctx, row.pooled_projections);
    row.kept = find({std::string(pooled.data<char>(), static_cast<size_t>(pooled.bytes())),
                     row.guidance,
                     {row.timesteps.begin(), row.timesteps.end()}});
  }
}

KeptConditioning* ConditioningCache::find(Key key) {
  size_t steps = 0;
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    if (entry->key == key) {
      entry->last_used = forwards_;
      return &entry->kept;
    }
    if (forwards_ - entry->last_used > patience_) {
      entry = entries_.erase(entry);
    } else {
      steps += entry->key.timesteps.size();
      ++entry;
    }
  }
  if (steps + key.timesteps.size() > kMostSteps) return nullptr;
  entries_.push_back({std::move(key), {}, forwards_});
  return &entries_.back().kept;
}

}  // namespace flux
