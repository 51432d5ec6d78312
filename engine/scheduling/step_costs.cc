#include "scheduling/step_costs.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <vector>

namespace flux {
namespace {

/// Sizes that are this near cost as much; the number of places stays small whatever is asked for.
constexpr double kStep = 1.02;
/// A new time counts this much, once as many as that are known: steps slow down as a GPU heats up.
constexpr int kRemembered = 16;
/// Of so many steps the error of the estimates is told.
constexpr size_t kErrors = 255;
/// A step that takes this many times what was known waited for something else.
constexpr double kOutlier = 4.0;

/// Steps together delay the first of them, so what they save must be worth it.
constexpr double kWorthwhile = 0.9;
/// So many steps, of this many places around, tell enough about a size.
constexpr int kMeasured = 2;
constexpr int64_t kAround = 7;

int64_t place_of(int64_t tokens) {
  const double size = static_cast<double>(std::max<int64_t>(1, tokens));
  return std::llround(std::log(size) / std::log(kStep));
}

double tokens_at(int64_t place) { return std::pow(kStep, static_cast<double>(place)); }

}  // namespace

void StepCosts::learn(int64_t tokens, double seconds) {
  if (!(seconds > 0)) return;
  if (const std::optional<double> estimate = of(tokens)) {
    errors_.push_back(std::abs(*estimate - seconds) / seconds);
    if (errors_.size() > kErrors) errors_.pop_front();
  }
  Cost& cost = by_tokens_[place_of(tokens)];
  if (cost.count > 0 && seconds > kOutlier * cost.seconds) seconds = kOutlier * cost.seconds;
  // The first step of a size also makes what later ones find, so that it may have taken longer.
  if (cost.count == 1 && seconds < cost.seconds) cost.seconds = seconds;
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

std::optional<double> StepCosts::median_error() const {
  if (errors_.empty()) return std::nullopt;
  std::vector<double> sorted(errors_.begin(), errors_.end());
  const auto middle = sorted.begin() + std::ssize(sorted) / 2;
  std::nth_element(sorted.begin(), middle, sorted.end());
  return *middle;
}

bool StepCosts::gain_together(int64_t tokens, int64_t more) const {
  const int64_t both = place_of(tokens + more);
  int measured = 0;
  for (auto near = by_tokens_.lower_bound(both - kAround);
       near != by_tokens_.end() && near->first <= both + kAround; ++near) {
    measured += near->second.count;
  }
  if (measured < kMeasured) return true;
  return *of(tokens + more) <= kWorthwhile * (*of(tokens) + *of(more));
}

}  // namespace flux
