#include "scheduling/step_policy.h"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "support/error.h"
#include "support/utf8.h"

namespace flux {
namespace {

constexpr StepPolicy kPolicies[] = {StepPolicy::kShare, StepPolicy::kFifo, StepPolicy::kLeastWork};

/// What is smaller goes first. Equal candidates go in the order of their arrival.
auto rank_of(const StepCandidate& candidate, StepPolicy policy, double bound) {
  double work = 0;
  double ageing = 0;
  if (policy == StepPolicy::kLeastWork) {
    const double slowdown = candidate.slowdown();
    const double whole = candidate.remaining + 2 * candidate.to_load;
    work = whole * std::max(0.0, 1.0 - slowdown / bound);
    ageing = -std::max(slowdown, bound);  // among those beyond the bound
  }
  return std::tuple(candidate.priority, work, ageing, candidate.order);
}

}  // namespace

std::string_view name_of(StepPolicy policy) {
  switch (policy) {
    case StepPolicy::kShare:
      return "share";
    case StepPolicy::kFifo:
      return "fifo";
    case StepPolicy::kLeastWork:
      return "least-work";
  }
  return "";
}

StepPolicy parse_step_policy(std::string_view name) {
  for (const StepPolicy known : kPolicies) {
    if (name == name_of(known)) return known;
  }
  fail(ErrorCode::kInvalidArgument, "policy '{}' is not known: use share, fifo or least-work",
       excerpt(name));
}

bool goes_before(const StepCandidate& a, const StepCandidate& b, StepPolicy policy, double bound) {
  return rank_of(a, policy, bound) < rank_of(b, policy, bound);
}

std::vector<size_t> choose_step(std::span<const StepCandidate> candidates, StepPolicy policy,
                                double bound, int64_t capacity) {
  std::vector<size_t> order(candidates.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return goes_before(candidates[a], candidates[b], policy, bound);
  });
  if (policy == StepPolicy::kShare || order.empty()) return order;
  const StepCandidate& first = candidates[order[0]];
  std::vector<size_t> chosen = {order[0]};
  int64_t tokens = first.tokens;
  for (const size_t i : std::span(order).subspan(1)) {
    const StepCandidate& next = candidates[i];
    if (next.costs != first.costs || tokens + next.tokens > capacity) continue;
    if (!first.costs->gain_together(tokens, next.tokens)) continue;
    chosen.push_back(i);
    tokens += next.tokens;
  }
  return chosen;
}

}  // namespace flux
