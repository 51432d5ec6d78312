#include "pipeline/scheduler_config.h"

namespace flux {

SchedulerConfig load_scheduler_config(const ConfigReader& reader) {
  SchedulerConfig config;
  for (const char* key : {"invert_sigmas", "use_karras_sigmas", "use_exponential_sigmas",
                          "use_beta_sigmas", "stochastic_sampling"}) {
    reader.require(key, false);
  }
  config.num_train_timesteps = reader.integer("num_train_timesteps", 1000, 1, kMaxSize);
  config.shift = reader.number("shift", config.shift, 1e-6, 1e6);
  config.use_dynamic_shifting = reader.boolean("use_dynamic_shifting", false);
  config.base_shift = reader.number("base_shift", config.base_shift, -100, 100);
  config.max_shift = reader.number("max_shift", config.max_shift, -100, 100);
  config.base_image_seq_len = reader.integer("base_image_seq_len", 256, 1, int64_t{1} << 31);
  config.max_image_seq_len = reader.integer("max_image_seq_len", 4096, 1, int64_t{1} << 31);
  const std::string kind = reader.text("time_shift_type", "exponential");
  if (kind != "exponential" && kind != "linear") {
    reader.refuse("time_shift_type", kind, "expected exponential or linear");
  }
  config.time_shift_type = kind == "linear" ? SchedulerConfig::TimeShift::kLinear
                                            : SchedulerConfig::TimeShift::kExponential;
  const double terminal = reader.number("shift_terminal", 0, 0, 0.999999);
  if (terminal != 0) config.shift_terminal = terminal;
  if (config.base_image_seq_len == config.max_image_seq_len) {
    reader.refuse("max_image_seq_len", config.max_image_seq_len,
                  "expected another value than base_image_seq_len");
  }
  return config;
}

}  // namespace flux
