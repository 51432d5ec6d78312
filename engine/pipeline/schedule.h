#pragma once

#include <vector>

#include "pipeline/scheduler_config.h"

namespace flux {

/// The noise levels of one image's denoise loop.
struct Schedule {
  std::vector<float> sigmas;     // steps + 1 values, falling, the last is 0
  std::vector<float> timesteps;  // steps values: sigma x num_train_timesteps

  int steps() const { return static_cast<int>(timesteps.size()); }
};

/// The schedule of `steps` steps for an image of `image_tokens` tokens. Sources: diffusers'
/// FluxPipeline (sigmas, calculate_shift) and FlowMatchEulerDiscreteScheduler.set_timesteps.
/// Throws kInvalidArgument where the config's shifts leave no finite noise levels.
Schedule make_schedule(const SchedulerConfig& config, int steps, int64_t image_tokens);

/// The steps of `steps` that image to image leaves out: those before the noise level that
/// `strength`, above 0 and at most 1, stands for. Source: FluxImg2ImgPipeline.get_timesteps.
int skipped_steps(int steps, double strength);

/// What is left of a schedule without its first `count` steps.
Schedule without_first(const Schedule& schedule, int count);

}  // namespace flux
