#include "pipeline/schedule.h"

#include <gtest/gtest.h>

#include "golden.h"
#include "support/error.h"
#include "support/json_file.h"

namespace flux::testing {
namespace {

SchedulerConfig parse_config(const nlohmann::json& json) {
  SchedulerConfig config;
  config.shift = json.value("shift", config.shift);
  config.use_dynamic_shifting = json.value("use_dynamic_shifting", false);
  config.base_shift = json.value("base_shift", config.base_shift);
  config.max_shift = json.value("max_shift", config.max_shift);
  config.base_image_seq_len = json.value("base_image_seq_len", config.base_image_seq_len);
  config.max_image_seq_len = json.value("max_image_seq_len", config.max_image_seq_len);
  config.num_train_timesteps = json.value("num_train_timesteps", config.num_train_timesteps);
  if (json.value("time_shift_type", "exponential") == "linear") {
    config.time_shift_type = SchedulerConfig::TimeShift::kLinear;
  }
  if (json.contains("shift_terminal") && json["shift_terminal"].is_number()) {
    config.shift_terminal = json["shift_terminal"].get<double>();
  }
  return config;
}

TEST(Schedule, IsDiffusers) {
  const auto cases = read_json_file(std::filesystem::path(FLUX_TEST_DATA) / "schedules.json");
  ASSERT_GT(cases.size(), 5u);
  for (const auto& golden : cases) {
    const Schedule schedule = make_schedule(parse_config(golden["config"]),
                                            golden["num_inference_steps"], golden["image_tokens"]);
    const auto sigmas = golden["sigmas"].get<std::vector<float>>();
    const auto timesteps = golden["timesteps"].get<std::vector<float>>();
    ASSERT_EQ(schedule.sigmas.size(), sigmas.size()) << golden["config"];
    for (size_t i = 0; i < sigmas.size(); ++i) {
      EXPECT_NEAR(schedule.sigmas[i], sigmas[i], 1.2e-7) << golden["config"] << " at " << i;
    }
    for (size_t i = 0; i < timesteps.size(); ++i) {
      EXPECT_NEAR(schedule.timesteps[i], timesteps[i], 1.2e-4) << golden["config"] << " at " << i;
    }
  }
}

TEST(Schedule, OneStepGoesFromNoiseToImage) {
  const Schedule schedule = make_schedule(SchedulerConfig{}, 1, 16);
  EXPECT_EQ(schedule.sigmas, (std::vector<float>{1.0f, 0.0f}));
}

TEST(Schedule, StrengthLeavesStepsOutAsPythonCountsThem) {
  const auto done = [](int steps, double strength) {
    return steps - skipped_steps(steps, strength);
  };
  EXPECT_EQ(done(20, 0.55), 11);
  EXPECT_EQ(done(20, static_cast<double>(0.55f)), 12);  // what a number of 32 bits would do
  EXPECT_EQ(done(25, 0.56), 15);                        // 14 by exact arithmetic
  EXPECT_EQ(done(4, 0.8), 4);
  EXPECT_EQ(done(4, 0.75), 3);
  EXPECT_EQ(done(1, 0.5), 1);
  EXPECT_EQ(done(28, 1), 28);
  EXPECT_EQ(done(1000, 1e-3), 1);
  EXPECT_EQ(done(28, 1e-20), 0);
}

TEST(Schedule, WithoutItsFirstStepsIsItsEnd) {
  const Schedule whole = make_schedule(SchedulerConfig{}, 5, 16);
  const Schedule rest = without_first(whole, 3);
  ASSERT_EQ(rest.steps(), 2);
  EXPECT_EQ(rest.sigmas, (std::vector<float>{whole.sigmas[3], whole.sigmas[4], 0.0f}));
  EXPECT_EQ(rest.timesteps, (std::vector<float>{whole.timesteps[3], whole.timesteps[4]}));
  EXPECT_EQ(without_first(whole, 0).sigmas, whole.sigmas);
}

TEST(Schedule, RefusesShiftsThatOverflow) {
  SchedulerConfig config;
  config.use_dynamic_shifting = true;
  config.base_image_seq_len = 8;
  config.max_image_seq_len = 64;
  EXPECT_NO_THROW(make_schedule(config, 4, 64));
  EXPECT_THROW(make_schedule(config, 4, 100000), Error);
}

}  // namespace
}  // namespace flux::testing
