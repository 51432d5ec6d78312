#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ops/ops.h"

namespace flux {

/// A linear of a model, as adapters know it: the modules that it stacks along its output, by the
/// names of diffusers and transformers, each with `out_features`.
struct LinearPlace {
  std::vector<std::string> modules;
  int64_t in_features = 0;
  int64_t out_features = 0;
};

/// A change of a linear, as the adapter's own scale has it.
struct LinearChange {
  WeightChange weights;
  float scale = 1.0f;
};

/// What an adapter changes in the linears of one model, on one device. Immutable.
struct AdapterWeights {
  std::vector<std::vector<LinearChange>> by_linear;  // in the order of the model's places

  int64_t bytes() const {
    int64_t total = 0;
    for (const std::vector<LinearChange>& changes : by_linear) {
      for (const LinearChange& change : changes) total += change.weights.bytes();
    }
    return total;
  }
};

/// An adapter that a row of a batch is computed with. It belongs to the model that computes.
struct AppliedAdapter {
  std::shared_ptr<const AdapterWeights> weights;
  float scale = 1.0f;

  friend bool operator==(const AppliedAdapter&, const AppliedAdapter&) = default;
};

/// An adapter as a request names it; who computes makes an AppliedAdapter of it.
struct AdapterChoice {
  std::string file;
  float scale = 1.0f;
};

/// All of a row; the changes add up.
using Adapters = std::span<const AppliedAdapter>;

}  // namespace flux
