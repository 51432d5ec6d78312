// Rows of one call with adapters of their own.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "golden.h"
#include "ops/cuda_library.h"
#include "pipeline/local_stages.h"
#include "pipeline/text_to_image.h"

namespace flux::testing {
namespace {

std::string golden_adapter(const char* name) {
  return fmt::format("{}/adapters/{}.safetensors", FLUX_TEST_DATA, name);
}

ImageParams row_with(const FluxConfig& config, const std::vector<AdapterFile>& adapters) {
  Request request;
  request.prompt = "a cat";
  request.seed = 7;
  request.num_inference_steps = 3;
  request.height = 2 * config.size_multiple();
  request.width = 3 * config.size_multiple();
  request.max_sequence_length = 16;
  request.adapters = adapters;
  return validate(request, config, limits_for(config));
}

std::string bytes_of(const GeneratedImage& image) {
  return {image.latents.data<char>(), static_cast<size_t>(image.latents.bytes())};
}

class Adapters : public ::testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    if (!GetParam().is_cpu() && !has_cuda()) GTEST_SKIP() << "there is no GPU";
  }
};

INSTANTIATE_TEST_SUITE_P(Devices, Adapters,
                         ::testing::Values(Device{}, Device{Device::Kind::kCuda, 0}),
                         [](const auto& test) { return test.param.is_cpu() ? "cpu" : "cuda"; });

/// kohya changes norm1.linear, whose results are kept from step to step, and CLIP.
TEST_P(Adapters, ARowHasTheBytesOfItsOwnAdaptersAloneAndInCompany) {
  const auto checkpoint = open_golden("tiny-dev");
  const FluxConfig& config = checkpoint->config();
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const auto images_of = [&](const std::vector<ImageParams>& rows) {
      LocalStages stages(checkpoint, {.dtype = dtype, .device = GetParam(), .threads = 2});
      return generate(stages, config, dtype, rows, {}).images;
    };
    const std::vector<ImageParams> rows = {
        row_with(config, {}),
        row_with(config, {{golden_adapter("kohya"), 2.0}}),
        row_with(config, {{golden_adapter("kohya"), -1.0}}),
        row_with(config, {{golden_adapter("lycoris_dora"), 1.0}, {golden_adapter("kohya"), 0.5}}),
        row_with(config, {{golden_adapter("kohya"), 0.0}}),
        row_with(config, {}),
    };
    const std::vector<GeneratedImage> together = images_of(rows);
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_EQ(bytes_of(together[i]), bytes_of(images_of({rows[i]})[0])) << "row " << i;
    }
    EXPECT_EQ(bytes_of(together[5]), bytes_of(together[0])) << "an adapter leaked";
    EXPECT_EQ(bytes_of(together[4]), bytes_of(together[0])) << "scale 0 is not the base";
    for (const size_t i : {1, 2, 3}) EXPECT_NE(bytes_of(together[i]), bytes_of(together[0]));
  }
}

TEST_P(Adapters, AReplacedFileIsReadAgain) {
  const auto checkpoint = open_golden("tiny-dev");
  const FluxConfig& config = checkpoint->config();
  LocalStages stages(checkpoint, {.dtype = DType::kF32, .device = GetParam(), .threads = 1});
  const std::filesystem::path file =
      std::filesystem::path(::testing::TempDir()) / "replaced.safetensors";
  const auto image_with = [&](const char* name) {
    std::filesystem::copy_file(golden_adapter(name), file.string() + ".new",
                               std::filesystem::copy_options::overwrite_existing);
    std::filesystem::rename(file.string() + ".new", file);
    return bytes_of(
        generate(stages, config, DType::kF32, {{row_with(config, {{file.string(), 2.0}})}}, {})
            .images[0]);
  };
  const std::string kohya = image_with("kohya");
  EXPECT_NE(image_with("lycoris_loha"), kohya);
  EXPECT_EQ(image_with("kohya"), kohya);
  std::filesystem::remove(file);
}

TEST(AdaptersOnGpu, AreThoseOfTheCpu) {
  if (!has_cuda()) GTEST_SKIP() << "there is no GPU";
  const auto checkpoint = open_golden("tiny-dev");
  const FluxConfig& config = checkpoint->config();
  const auto latents_of = [&](const Device& device, const char* name) {
    LocalStages stages(checkpoint, {.dtype = DType::kF32, .device = device, .threads = 2});
    const ImageParams row = row_with(config, {{golden_adapter(name), 1.0}});
    return generate(stages, config, DType::kF32, {{row}}, {}).images[0].latents;
  };
  for (const char* name : {"kohya", "lycoris_dora", "lycoris_loha", "lycoris_lokr"}) {
    EXPECT_LE(relative_error(latents_of({Device::Kind::kCuda, 0}, name), latents_of({}, name)),
              1e-4)
        << name;
  }
}

}  // namespace
}  // namespace flux::testing
