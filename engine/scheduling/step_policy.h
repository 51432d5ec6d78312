#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "scheduling/step_costs.h"

namespace flux {

/// The order in which images take their denoising steps. An image is a sequence of steps of known
/// cost, so its remaining time is known, and a step is short, so a long image can be left between
/// two steps for a short one.
enum class StepPolicy : uint8_t {
  kShare,      // all at once
  kFifo,       // first come, first served
  kLeastWork,  // the least remaining work first, with ageing
};

/// Name as on the command line: "share", "fifo" or "least-work".
std::string_view name_of(StepPolicy policy);
/// Parses such a name. Throws kInvalidArgument.
StepPolicy parse_step_policy(std::string_view name);

/// What a policy knows of a request that wants a step. Times are seconds.
struct StepCandidate {
  int priority = 1;                  // the class: a lower one goes first
  uint64_t order = 0;                // of arrival
  double waited = 0;                 // since it arrived
  double remaining = 0;              // that its steps take alone
  double to_load = 0;                // until its model's weights would be on the device
  double alone = 0;                  // that the whole request takes alone, > 0
  int64_t tokens = 0;                // of the step, all rows together
  const StepCosts* costs = nullptr;  // of its model's steps

  /// The time in the system over the time alone, if nothing held it up from now on.
  double slowdown() const { return (waited + to_load + remaining) / (to_load + alone); }
};

/// Whether the policy takes a step of `a` before one of `b`.
///
/// kLeastWork takes the least of remaining x (1 - slowdown / bound), within the best class: the
/// order that has the least mean latency (Schrage, 1968) while slowdowns are small, and that of the
/// largest slowdown as they come near the bound, so that nobody starves. The bound holds as far as
/// the load allows. Weights that must come are work, and once more as those that leave for them
/// come back: models whose weights do not fit together take turns of many steps.
bool goes_before(const StepCandidate& a, const StepCandidate& b, StepPolicy policy, double bound);

/// Those that take the next step together, as indices, in the order of goes_before(): the first,
/// and those of the same model after it that the device gains from, up to `capacity` tokens. With
/// kShare all of them.
std::vector<size_t> choose_step(std::span<const StepCandidate> candidates, StepPolicy policy,
                                double bound, int64_t capacity);

}  // namespace flux
