#include "scheduling/step_costs.h"

#include <algorithm>
#include <cmath>
#include <iterator>

namespace flux {
namespace {

/// Sizes that are this near cost as much; the number of places stays small whatever is asked for.
constexpr double kStep = 1.02;
/// A new time counts this much, once as many as that are known: steps slow down as a GPU heats up.
constexpr int kRemembered = 16;
/// A step that takes this many times what was known waited for something else.
constexpr double kOutlier = 4.0;

int64_t place_of(int64_t tokens) {
  const double size = static_cast<double>(std::max<int64_t>(1, tokens));
  return std::llround(std::log(size) / std::log(kStep));
}

double tokens_at(int64_t place) { return std::pow(kStep, static_cast<double>(place)); }

}  // namespace

void StepCosts::learn(int64_t tokens, double seconds) {
  if (!(seconds > 0)) return;
  Cost& cost = by_tokens_[place_of(tokens)];
  if (cost.count > 0 && seconds > kOutlier * cost.seconds) seconds = kOutlier * cost.seconds;
  cost.count = std::min(cost.count + 1, kRemembered);
  cost.seconds += (seconds - cost.seconds) / cost.count;
}

std::optional<double> StepCosts::of(int64_t tokens) const {
  if (by_tokens_.empty()) return std::nullopt;
  const auto above = by_tokens_.lower_bound(place_of(tokens));
  const auto size = static_cast<double>(std::max<int64_t>(1, tokens));
  if (above != by_tokens_.end() && above->first == place_of(tokens)) return above->second.seconds;
  // A small step is bound by its launches, a large one by its products: beyond what is known the
  // time is at most in proportion.
  if (above == by_tokens_.begin()) return above->second.seconds;
  const auto below = std::prev(above);
  if (above == by_tokens_.end()) {
    return below->second.seconds * size / tokens_at(below->first);
  }
  const double low = tokens_at(below->first);
  const double high = tokens_at(above->first);
  const double share = std::clamp((size - low) / (high - low), 0.0, 1.0);
  return below->second.seconds + share * (above->second.seconds - below->second.seconds);
}

}  // namespace flux
