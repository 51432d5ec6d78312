#pragma once

#include <cstdint>
#include <map>
#include <optional>

namespace flux {

/// What steps cost on a device, learnt from those that were taken: seconds by the tokens of all
/// rows that were computed together. Not thread-safe.
class StepCosts {
 public:
  /// A step of `tokens` took `seconds`.
  void learn(int64_t tokens, double seconds);
  /// The seconds that a step of `tokens` takes: measured, between two measured ones, or in
  /// proportion to the nearest; nothing before the first was learnt.
  std::optional<double> of(int64_t tokens) const;

 private:
  struct Cost {
    double seconds = 0;
    int count = 0;
  };
  std::map<int64_t, Cost> by_tokens_;
};

}  // namespace flux
