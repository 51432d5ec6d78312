#include "pipeline/schedule.h"

#include <algorithm>
#include <cmath>

#include "support/error.h"

namespace flux {
namespace {

/// numpy.linspace(1, 1 / n, n), as float32.
std::vector<float> evenly_spaced(int n) {
  std::vector<float> values;
  const double last = 1.0 / n;
  const double step = n > 1 ? (last - 1.0) / (n - 1) : 0.0;
  for (int i = 0; i < n; ++i) values.push_back(static_cast<float>(i * step + 1.0));
  if (n > 1) values.back() = static_cast<float>(last);
  return values;
}

/// The shift grows linearly with the number of image tokens. Source: calculate_shift.
double dynamic_shift(const SchedulerConfig& config, int64_t image_tokens) {
  const double slope = (config.max_shift - config.base_shift) /
                       static_cast<double>(config.max_image_seq_len - config.base_image_seq_len);
  const double offset = config.base_shift - slope * static_cast<double>(config.base_image_seq_len);
  return static_cast<double>(image_tokens) * slope + offset;
}

/// Rescales so that the last sigma is 1 - terminal. Source: stretch_shift_to_terminal.
void stretch_to_terminal(std::vector<float>& sigmas, double terminal) {
  const float scale = (1.0f - sigmas.back()) / static_cast<float>(1.0 - terminal);
  for (float& sigma : sigmas) sigma = 1.0f - (1.0f - sigma) / scale;
}

}  // namespace

Schedule make_schedule(const SchedulerConfig& config, int steps, int64_t image_tokens) {
  Schedule schedule;
  schedule.sigmas = evenly_spaced(steps);
  if (config.use_dynamic_shifting) {
    const double mu = dynamic_shift(config, image_tokens);
    const bool linear = config.time_shift_type == SchedulerConfig::TimeShift::kLinear;
    const auto factor = static_cast<float>(linear ? mu : std::exp(mu));
    for (float& sigma : schedule.sigmas) sigma = factor / (factor + (1.0f / sigma - 1.0f));
  } else {
    const auto shift = static_cast<float>(config.shift);
    const auto excess = static_cast<float>(config.shift - 1.0);
    for (float& sigma : schedule.sigmas) sigma = shift * sigma / (1.0f + excess * sigma);
  }
  if (config.shift_terminal) stretch_to_terminal(schedule.sigmas, *config.shift_terminal);
  for (const float sigma : schedule.sigmas) {
    check(std::isfinite(sigma), ErrorCode::kInvalidArgument,
          "the scheduler's config gives no finite noise levels for {} steps and {} image tokens; "
          "use another size or number of steps",
          steps, image_tokens);
    schedule.timesteps.push_back(sigma * static_cast<float>(config.num_train_timesteps));
  }
  schedule.sigmas.push_back(0.0f);
  return schedule;
}

int skipped_steps(int steps, double strength) {
  const double done = std::min(steps * strength, static_cast<double>(steps));
  return static_cast<int>(std::max(steps - done, 0.0));
}

Schedule without_first(const Schedule& schedule, int count) {
  return {{schedule.sigmas.begin() + count, schedule.sigmas.end()},
          {schedule.timesteps.begin() + count, schedule.timesteps.end()}};
}

}  // namespace flux
