#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "models/flux1/transformer.h"

namespace flux {

/// The StepStates of the images that one context works on with one model. Entries are found by
/// every value that they are computed from, so that no image can be given another's. They take
/// megabytes a step (FLUX.1-dev: 4), so their number is bounded; a row without one is computed all
/// the same. Not thread-safe: one for each context.
class ConditioningCache {
 public:
  /// `model` must outlive the cache. `patience`: the number of steps for which an entry is kept
  /// without being asked for; at least 1.
  ConditioningCache(const FluxTransformer& model, int64_t patience)
      : model_(&model), patience_(patience) {}

  const FluxTransformer& model() const { return *model_; }

  /// Gives rows whose schedule has several steps their state, for one forward of the model. To
  /// compare pooled projections that are on a GPU the host waits for it.
  void share(Context& ctx, std::span<TransformerInput> rows);
  /// Drops all entries. The context's device must have finished.
  void clear() { entries_.clear(); }
  bool empty() const { return entries_.empty(); }

 private:
  /// An adapter, by the object that it is: one that has left is no other's, and is not kept by it.
  struct AdapterKey {
    std::weak_ptr<const AdapterWeights> weights;
    float scale = 1.0f;

    friend bool operator==(const AdapterKey& a, const AdapterKey& b) {
      return a.scale == b.scale && !a.weights.owner_before(b.weights) &&
             !b.weights.owner_before(a.weights);
    }
  };
  /// Every input of FluxTransformer's conditioning.
  struct Key {
    std::string pooled;  // the bytes of the pooled projections
    std::optional<float> guidance;
    std::vector<float> timesteps;
    std::vector<AdapterKey> adapters;

    friend bool operator==(const Key&, const Key&) = default;
  };
  struct Entry {
    Key key;
    StepState state;
    int64_t last_used = 0;
  };

  /// Null when there is no room.
  StepState* find(Key key);

  const FluxTransformer* model_;
  int64_t patience_;
  std::list<Entry> entries_;
  int64_t steps_ = 0;
};

}  // namespace flux
