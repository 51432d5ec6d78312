#pragma once

#include <cstdint>
#include <optional>

#include "models/config_reader.h"

namespace flux {

/// diffusers' FlowMatchEulerDiscreteScheduler.
struct SchedulerConfig {
  int64_t num_train_timesteps = 1000;
  double shift = 1.0;
  bool use_dynamic_shifting = false;
  double base_shift = 0.5;
  double max_shift = 1.15;
  int64_t base_image_seq_len = 256;
  int64_t max_image_seq_len = 4096;
  enum class TimeShift { kExponential, kLinear } time_shift_type = TimeShift::kExponential;
  std::optional<double> shift_terminal;
};

/// Loads and checks a config: types, ranges and how values fit together. Missing keys take the
/// defaults of the class named above. Throws kInvalidArgument naming the file, the key, the value
/// and what is allowed.
SchedulerConfig load_scheduler_config(const ConfigReader& reader);

}  // namespace flux
