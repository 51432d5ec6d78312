#pragma once

#include <cstdint>
#include <deque>
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
  /// Whether steps of `tokens` and of `more` should be computed as one: that saves a tenth of the
  /// time that they take one after the other. It is also tried until steps of about as many tokens
  /// as both have were measured.
  bool gain_together(int64_t tokens, int64_t more) const;
  /// The median error of what of() said before the last steps were taken, in parts of what they
  /// took; nothing before there was one.
  std::optional<double> median_error() const;

 private:
  struct Cost {
    double seconds = 0;
    int count = 0;
  };
  std::map<int64_t, Cost> by_tokens_;
  std::deque<double> errors_;  // the oldest first
};

}  // namespace flux
