// Images as input against diffusers' FluxImg2ImgPipeline and FluxInpaintPipeline, by the limits of
// docs/numerics.md.
#include <gtest/gtest.h>

#include <algorithm>

#include "golden.h"
#include "pipeline/image_start.h"
#include "pipeline/latents.h"
#include "pipeline/local_stages.h"
#include "pipeline/text_to_image.h"
#include "rounded_images.h"
#include "support/error.h"

namespace flux::testing {
namespace {

LocalStages make_stages(const GoldenCase& golden, const Device& device = {}, int threads = 2) {
  return LocalStages(open_golden(golden.checkpoint),
                     {.dtype = golden.dtype, .device = device, .threads = threads});
}

GenerateResult draw(const GoldenCase& golden, std::span<const ImageParams> rows,
                    const Device& device = {}, int threads = 2) {
  LocalStages stages = make_stages(golden, device, threads);
  return generate(stages, open_golden(golden.checkpoint)->config(), golden.dtype, rows, {});
}

GoldenCase case_named(const std::string& name) {
  for (const GoldenCase& golden : golden_cases("tiny-dev", "image_to_image")) {
    if (golden.name == "from_image_" + name) return golden;
  }
  fail(ErrorCode::kNotFound, "no case {}", name);
}

class ImageToImageGolden : public GoldenTest {};

TEST_P(ImageToImageGolden, Float32EqualsDiffusers) {
  for (const GoldenCase& golden : golden_cases(checkpoint(), "image_to_image")) {
    if (golden.dtype != DType::kF32) continue;
    const std::vector<ImageParams> rows = golden_rows(golden);
    EXPECT_EQ(rows[0].denoising_steps(), golden.recipe["steps"].get<int>()) << golden.name;
    const GenerateResult result = draw(golden, rows, device());
    const ConstTensor images = golden.tensor("images");
    const ConstTensor latents = golden.tensor("latents");
    ASSERT_EQ(std::ssize(result.images), images.size(0)) << golden.name;
    for (int64_t i = 0; i < images.size(0); ++i) {
      const GeneratedImage& image = result.images[static_cast<size_t>(i)];
      EXPECT_LT(relative_error(image.latents, latents[i]), 2e-4) << golden.name << " image " << i;
      EXPECT_GE(share_within_one(image.pixels, images[i]), 0.999) << golden.name << " image " << i;
    }
  }
}

TEST_P(ImageToImageGolden, BFloat16IsAsCloseAsDiffusers) {
  for (const GoldenCase& golden : golden_cases(checkpoint(), "image_to_image")) {
    if (golden.dtype != DType::kBF16) continue;
    expect_as_close_as_diffusers(golden, draw(golden, golden_rows(golden), device()));
  }
}

/// A call with text to image, image to image and inpainting.
std::vector<ImageParams> mixed_rows() {
  std::vector<ImageParams> rows = golden_rows(case_named("start_f32"));
  rows.push_back(golden_rows(case_named("masked_rows_f32"))[0]);
  ImageParams plain = rows[0];
  plain.image = {};
  plain.strength.reset();
  plain.num_inference_steps = 2;
  rows.push_back(plain);
  return rows;
}

TEST(ImageToImage, RowsHaveTheSameBytesAloneAndInCompany) {
  const GoldenCase golden = case_named("start_f32");
  const std::vector<ImageParams> rows = mixed_rows();
  const GenerateResult together = draw(golden, rows);
  size_t at = 0;
  for (const ImageParams& row : rows) {
    const GenerateResult alone = draw(golden, {&row, 1}, {}, 1);
    for (const GeneratedImage& image : alone.images) {
      EXPECT_TRUE(same_bytes(together.images[at].pixels, image.pixels)) << at;
      EXPECT_TRUE(same_bytes(together.images[at].latents, image.latents)) << at;
      ++at;
    }
  }
  EXPECT_EQ(at, together.images.size());
}

TEST(ImageToImage, ImageKIsThatOfACallOfItsOwn) {
  const GoldenCase golden = case_named("masked_f32");
  ImageParams row = golden_rows(golden)[0];
  row.num_images_per_prompt = 3;
  const GenerateResult together = draw(golden, {&row, 1});
  row.num_images_per_prompt = 1;
  row.seed += 2;
  const GenerateResult alone = draw(golden, {&row, 1});
  EXPECT_TRUE(same_bytes(together.images[2].pixels, alone.images[0].pixels));
}

TEST(ImageToImage, WhatTheMaskKeepsIsTheImage) {
  const GoldenCase golden = case_named("masked_f32");
  ImageParams row = golden_rows(golden)[0];
  const auto size = static_cast<size_t>(row.mask.height * row.mask.width);
  row.mask.pixels = std::make_shared<const std::vector<uint8_t>>(size, uint8_t{127});
  LocalStages stages = make_stages(golden);
  const FluxConfig& config = open_golden("tiny-dev")->config();
  const GenerateResult kept = generate(stages, config, DType::kF32, {&row, 1}, {});
  const LatentSize latents = latent_size(config, row.height, row.width);
  const Schedule schedule =
      without_first(make_schedule(config.scheduler, row.num_inference_steps, latents.tokens()),
                    row.num_inference_steps - row.denoising_steps());
  const ImageStart start = start_images({stages, config, DType::kF32, row, schedule}).front();
  EXPECT_TRUE(same_bytes(kept.images[0].latents, start.kept->image));
  // All of it is made anew: the mask changes nothing then.
  row.mask.pixels = std::make_shared<const std::vector<uint8_t>>(size, uint8_t{128});
  const GenerateResult anew = generate(stages, config, DType::kF32, {&row, 1}, {});
  row.mask = {};
  const GenerateResult free = generate(stages, config, DType::kF32, {&row, 1}, {});
  EXPECT_TRUE(same_bytes(anew.images[0].latents, free.images[0].latents));
}

TEST(ImageToImage, OnlyAnImageLoadsTheEncoder) {
  const GoldenCase golden = case_named("start_f32");
  const std::vector<ImageParams> rows = mixed_rows();
  LocalStages stages = make_stages(golden);
  const FluxConfig& config = open_golden("tiny-dev")->config();
  generate(stages, config, DType::kF32, {&rows.back(), 1}, {});
  EXPECT_EQ(stages.weight_bytes(StageKind::kVaeEncoder), 0);
  generate(stages, config, DType::kF32, {&rows.front(), 1}, {});
  EXPECT_GT(stages.weight_bytes(StageKind::kVaeEncoder), 0);
}

TEST(ImageToImage, StepsAreThoseThatAreDone) {
  const GoldenCase golden = case_named("start_f32");
  const std::vector<ImageParams> rows = golden_rows(golden);
  LocalStages stages = make_stages(golden);
  std::vector<std::pair<int, int>> steps;
  size_t previews = 0;
  GenerateObserver observer;
  observer.on_step = [&](int done, int total) { steps.emplace_back(done, total); };
  observer.on_preview = [&](size_t, const ConstTensor&) { ++previews; };
  observer.preview_every = 1;
  generate(stages, open_golden("tiny-dev")->config(), golden.dtype, rows, observer);
  EXPECT_EQ(steps, (std::vector<std::pair<int, int>>{{0, 3}, {1, 3}, {2, 3}, {3, 3}}));
  EXPECT_EQ(previews, 2U);
}

INSTANTIATE_TEST_SUITE_P(Kinds, ImageToImageGolden, ::testing::ValuesIn(kind_settings()),
                         [](const auto& test) { return name_of(test.param); });
INSTANTIATE_TEST_SUITE_P(Settings, ImageToImageGolden, ::testing::ValuesIn(golden_settings()),
                         [](const auto& test) { return name_of(test.param); });

}  // namespace
}  // namespace flux::testing
