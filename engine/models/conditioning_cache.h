#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "models/dit_transformer.h"

namespace flux {

/// What the steps of images share in the transformer, for one context: what depends on the time,
/// the guidance and the pooled projections alone is computed for all steps at once. Entries are
/// found by these values, so that nobody can be given another's. They take megabytes a step
/// (FLUX.1-dev: 4), so there are a few only; a row without one is computed all the same.
class ConditioningCache {
 public:
  /// `patience`: for how many forwards an entry is kept without being asked for; at least 1.
  explicit ConditioningCache(int64_t patience) : patience_(patience) {}

  /// model.forward() of rows that share where their timesteps are known. To compare pooled
  /// projections that are on a GPU the host waits for it. Where memory runs out nothing is shared,
  /// and the workspace begins anew: no scope of it may be open.
  void forward(Context& ctx, const DitTransformer& model, std::vector<TransformerInput> rows,
               std::shared_ptr<const Fence>* nearly_done = nullptr);
  /// Before the model goes. Its GPU must be done.
  void clear() { entries_.clear(); }

 private:
  struct Key {
    std::string pooled;  // the bytes of the pooled projections
    std::optional<float> guidance;
    std::vector<float> timesteps;

    friend bool operator==(const Key&, const Key&) = default;
  };
  struct Entry {
    Key key;
    KeptConditioning kept;
    int64_t last_used = 0;
  };

  void share(Context& ctx, std::span<TransformerInput> rows);
  /// Null when there is no room.
  KeptConditioning* find(Key key);

  int64_t patience_;
  std::list<Entry> entries_;
  int64_t forwards_ = 0;
};

}  // namespace flux
