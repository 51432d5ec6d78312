#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <string>
#include <vector>

#include "models/dit_transformer.h"

namespace flux::triton {

/// What the steps of images share in the transformer, for one instance. Entries are found by the
/// values that they depend on, so that nobody can be given another's. They take megabytes a step
/// (FLUX.1-dev: 4), so there are a few only; a row without one is computed all the same.
class ConditioningCache {
 public:
  struct Key {
    std::string pooled;  // the bytes of the pooled projections
    std::optional<float> guidance;
    std::vector<float> timesteps;

    friend bool operator==(const Key&, const Key&) = default;
  };

  /// Before each execution: entries that the last ones did not ask for make room for others.
  void begin_execution() { ++executions_; }
  /// What rows with this key keep, until clear() or the next execution; null when there is no room.
  KeptConditioning* find(Key key);
  void clear() { entries_.clear(); }
  bool empty() const { return entries_.empty(); }

 private:
  struct Entry {
    Key key;
    KeptConditioning kept;
    int64_t last_used = 0;
  };

  std::list<Entry> entries_;
  int64_t executions_ = 0;
};

}  // namespace flux::triton
