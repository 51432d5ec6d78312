// Whole images against diffusers' FluxPipeline, by the limits of docs/numerics.md.
#include <gtest/gtest.h>

#include "golden.h"
#include "pipeline/local_stages.h"
#include "pipeline/text_to_image.h"
#include "rounded_images.h"
#include "support/error.h"

namespace flux::testing {
namespace {

LocalStages make_stages(const GoldenCase& golden, const Device& device, int threads) {
  return LocalStages(open_golden(golden.checkpoint),
                     {.dtype = golden.dtype, .device = device, .threads = threads});
}

GenerateResult draw(const GoldenCase& golden, const Device& device,
                    std::span<const ImageParams> rows, int threads = 2) {
  LocalStages stages = make_stages(golden, device, threads);
  return generate(stages, open_golden(golden.checkpoint)->config(), golden.dtype, rows, {});
}

class ImagesGolden : public GoldenTest {};
/// In bfloat16: of checkpoints in diffusers' layout alone.
class RoundedImagesGolden : public GoldenTest {};

TEST_P(ImagesGolden, Float32EqualsDiffusers) {
  int cases = 0;
  for (const GoldenCase& golden : golden_cases(checkpoint(), "bls")) {
    if (golden.dtype != DType::kF32) continue;
    const std::vector<ImageParams> rows = golden_rows(golden);
    const GenerateResult result = draw(golden, device(), rows);
    const ConstTensor expected = golden.tensor("images");
    const ConstTensor latents =
        golden.tensor("latents_" + std::to_string(rows[0].num_inference_steps - 1));
    ASSERT_EQ(std::ssize(result.images), expected.size(0)) << golden.name;
    for (int64_t i = 0; i < expected.size(0); ++i) {
      const GeneratedImage& image = result.images[static_cast<size_t>(i)];
      EXPECT_LT(relative_error(image.latents, latents[i]), 2e-4) << golden.name << " image " << i;
      EXPECT_GE(share_within_one(image.pixels, expected[i]), 0.999)
          << golden.name << " image " << i;
    }
    ++cases;
  }
  EXPECT_GE(cases, 1);
}

TEST_P(RoundedImagesGolden, BFloat16IsAsCloseAsDiffusers) {
  int cases = 0;
  for (const GoldenCase& golden : golden_cases(checkpoint(), "bls")) {
    if (golden.dtype != DType::kBF16) continue;
    expect_as_close_as_diffusers(golden, draw(golden, device(), golden_rows(golden)));
    ++cases;
  }
  EXPECT_GE(cases, 1);
}

TEST_P(ImagesGolden, SameBytesAloneAndInCompany) {
  for (const GoldenCase& golden : golden_cases(checkpoint(), "bls")) {
    std::vector<ImageParams> rows = golden_rows(golden);
    if (rows.size() < 2) continue;
    // Neighbours of another size, length and number of steps.
    rows[1].height *= 2;
    rows[1].num_inference_steps += 1;
    rows[1].max_sequence_length = 33;
    const GenerateResult together = draw(golden, device(), rows);
    const GenerateResult alone = draw(golden, device(), {rows.data(), 1});
    for (size_t i = 0; i < alone.images.size(); ++i) {
      EXPECT_TRUE(same_bytes(together.images[i].pixels, alone.images[i].pixels)) << golden.name;
      EXPECT_TRUE(same_bytes(together.images[i].latents, alone.images[i].latents)) << golden.name;
    }
  }
}

TEST_P(ImagesGolden, SameBytesInEveryRun) {
  const GoldenCase golden = golden_cases(checkpoint(), "bls").front();
  const std::vector<ImageParams> rows = golden_rows(golden);
  const GenerateResult first = draw(golden, device(), rows);
  const GenerateResult second = draw(golden, device(), rows);
  EXPECT_TRUE(same_bytes(first.images[0].latents, second.images[0].latents));
  EXPECT_TRUE(same_bytes(first.images[0].pixels, second.images[0].pixels));
}

TEST_P(ImagesGolden, SameBytesWithAnyNumberOfThreads) {
  for (const GoldenCase& golden : golden_cases(checkpoint(), "bls")) {
    const bool small =
        golden.name.find("basic") != golden.name.npos || golden.recipe.contains("parts");
    if (!small) continue;
    const std::vector<ImageParams> rows = golden_rows(golden);
    const GenerateResult one = draw(golden, device(), rows, 1);
    for (const int threads : {2, 3, 5}) {
      const GenerateResult many = draw(golden, device(), rows, threads);
      EXPECT_TRUE(same_bytes(one.images[0].latents, many.images[0].latents))
          << golden.name << " with " << threads << " threads";
      EXPECT_TRUE(same_bytes(one.images[0].pixels, many.images[0].pixels))
          << golden.name << " with " << threads << " threads";
    }
  }
}

TEST(Generate, StopsWithinOneStepWhenCancelled) {
  const GoldenCase golden = golden_cases("tiny-dev", "bls").front();
  const std::vector<ImageParams> rows = golden_rows(golden);
  LocalStages stages = make_stages(golden, Device{}, 1);
  int steps_done = 0;
  GenerateObserver observer;
  observer.on_step = [&](int done, int) { steps_done = done; };
  observer.cancelled = [&] { return steps_done == 1; };
  try {
    generate(stages, open_golden("tiny-dev")->config(), golden.dtype, rows, observer);
    FAIL() << "not cancelled";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kCancelled);
    EXPECT_STREQ(e.what(), "cancelled after step 1 of 3");
  }
  EXPECT_EQ(steps_done, 1);
}

TEST(Generate, CancelInsideAForwardNamesTheStep) {
  const GoldenCase golden = golden_cases("tiny-dev", "bls").front();
  const std::vector<ImageParams> rows = golden_rows(golden);
  LocalStages stages = make_stages(golden, Device{}, 1);
  int polls = 0;
  int steps_done = 0;
  GenerateObserver observer;
  observer.on_step = [&](int done, int) { steps_done = done; };
  stages.context().set_cancel_check([&] { return steps_done == 2 && ++polls == 3; });
  try {
    generate(stages, open_golden("tiny-dev")->config(), golden.dtype, rows, observer);
    FAIL() << "not cancelled";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kCancelled);
    EXPECT_STREQ(e.what(), "cancelled after step 2 of 3");
  }
}

INSTANTIATE_TEST_SUITE_P(Settings, ImagesGolden, ::testing::ValuesIn(golden_settings()),
                         [](const auto& test) { return name_of(test.param); });
INSTANTIATE_TEST_SUITE_P(SingleFiles, ImagesGolden, ::testing::ValuesIn(single_file_settings()),
                         [](const auto& test) { return name_of(test.param); });
INSTANTIATE_TEST_SUITE_P(Settings, RoundedImagesGolden, ::testing::ValuesIn(golden_settings()),
                         [](const auto& test) { return name_of(test.param); });

}  // namespace
}  // namespace flux::testing
