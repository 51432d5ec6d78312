#include <gtest/gtest.h>

#include "golden.h"
#include "pipeline/local_stages.h"
#include "pipeline/text_to_image.h"

namespace flux::testing {
namespace {

struct Prompts {
  const char* name;
  std::string prompt;
  std::optional<std::string> negative;
  double true_cfg_scale;
  const char* truncated;
};

/// Too long for both encoders.
std::string long_text() {
  std::string text;
  for (int i = 0; i < 100; ++i) text += "a red cat ";
  return text;
}

const Prompts kCases[] = {{"none", "a cat", "dark", 2.0, ""},
                          {"prompt", long_text(), "dark", 2.0, "clip,t5"},
                          {"negative", "a cat", long_text(), 2.0, "clip,t5"},
                          {"unused_negative", "a cat", long_text(), 1.0, ""}};

TEST(Truncated, IsSetWhenEitherPromptWasCut) {
  const auto checkpoint = open_golden("tiny-dev");
  const FluxConfig& config = checkpoint->config();
  LocalStages stages(checkpoint, {.dtype = DType::kF32, .device = {}, .threads = 1});
  std::vector<ImageParams> rows;
  for (const Prompts& prompts : kCases) {
    Request request;
    request.prompt = prompts.prompt;
    request.negative_prompt = prompts.negative;
    request.true_cfg_scale = prompts.true_cfg_scale;
    request.num_inference_steps = 1;
    request.height = config.size_multiple();
    request.width = config.size_multiple();
    request.max_sequence_length = 16;
    rows.push_back(validate(request, config, limits_for(config)));
  }
  const GenerateResult result = generate(stages, config, DType::kF32, rows, {});
  ASSERT_EQ(result.images.size(), std::size(kCases));
  for (size_t i = 0; i < result.images.size(); ++i) {
    EXPECT_EQ(result.images[i].truncated.names(), kCases[i].truncated) << kCases[i].name;
  }
}

}  // namespace
}  // namespace flux::testing
