// Every stage alone, and its inner layers, against diffusers on the golden checkpoints.
#include <gtest/gtest.h>

#include <map>

#include "golden.h"
#include "pipeline/local_stages.h"
#include "pipeline/text_stages.h"

namespace flux::testing {
namespace {

constexpr double kF32Limit = 2e-4;
// Of the largest value; a single bfloat16 rounding is 4e-3. The rule for images is stricter.
constexpr double kBF16Limit = 6e-2;

double limit(DType dtype) { return dtype == DType::kF32 ? kF32Limit : kBF16Limit; }

class StagesGolden : public GoldenTest {
 protected:
  LocalStages make_stages(DType dtype) const {
    return LocalStages(open_golden(checkpoint()),
                       {.dtype = dtype, .device = device(), .threads = 2});
  }
};

/// What is traced inside of the models: of checkpoints in diffusers' layout alone.
class LayersGolden : public StagesGolden {};

TEST_P(StagesGolden, TokenIdsAreTransformers) {
  const auto opened = open_golden(checkpoint());
  const auto clip = load_clip_tokenizer(opened->layout().place(Component::kTokenizer));
  const auto t5 = load_t5_tokenizer(opened->layout().place(Component::kTokenizer2));
  for (const char* stage : {"clip_encoder", "t5_encoder"}) {
    for (const GoldenCase& golden : golden_cases(checkpoint(), stage)) {
      const ConstTensor expected = golden.tensor("input_ids");
      int64_t row = 0;
      for (const std::string prompt : golden.recipe["prompts"]) {
        const TokenIds found =
            golden.stage == "clip_encoder"
                ? clip.encode(prompt)
                : t5.encode(prompt, golden.recipe["max_sequence_length"].get<int>());
        const auto* ids = expected[row++].data<int32_t>();
        EXPECT_EQ(found.ids, std::vector<int32_t>(ids, ids + expected.size(1)))
            << golden.name << ": " << prompt.substr(0, 60);
      }
    }
  }
}

TEST_P(StagesGolden, Clip) {
  for (const GoldenCase& golden : golden_cases(checkpoint(), "clip_encoder")) {
    LocalStages stages = make_stages(golden.dtype);
    const ConstTensor expected = golden.tensor("pooled_prompt_embeds");
    int64_t row = 0;
    for (const std::string prompt : golden.recipe["prompts"]) {
      const ConstTensor pooled = to_host(stages.context(), stages.encode_clip(prompt, nullptr));
      EXPECT_LT(relative_error(pooled, expected[row++]), limit(golden.dtype))
          << golden.name << ": " << prompt.substr(0, 60);
    }
  }
}

TEST_P(StagesGolden, T5) {
  for (const GoldenCase& golden : golden_cases(checkpoint(), "t5_encoder")) {
    LocalStages stages = make_stages(golden.dtype);
    const ConstTensor expected = golden.tensor("prompt_embeds");  // [prompts, rows, dim]
    const ConstTensor rows = golden.tensor("rows");               // positions that were kept
    int64_t prompt_index = 0;
    for (const std::string prompt : golden.recipe["prompts"]) {
      const ConstTensor embeds = to_host(
          stages.context(),
          stages.encode_t5(prompt, golden.recipe["max_sequence_length"].get<int>(), nullptr));
      const Tensor kept = Tensor::allocate({rows.numel(), embeds.size(1)}, embeds.dtype());
      for (int64_t i = 0; i < rows.numel(); ++i) {
        copy_convert(embeds[rows.data<int64_t>()[i]], kept[i]);
      }
      EXPECT_LT(relative_error(kept, expected[prompt_index++]), limit(golden.dtype))
          << golden.name << ": " << prompt.substr(0, 60);
    }
  }
}

TransformerInput transformer_input(const GoldenCase& golden, int64_t row) {
  const auto typed = [&](const char* name) {
    return to_dtype(golden.tensor(name)[row], golden.dtype);
  };
  const auto number = [&](const char* name) {
    return to_dtype(golden.tensor(name), DType::kF32).data<float>()[row];
  };
  TransformerInput input;
  const Tensor hidden_states = typed("hidden_states");
  input.images = {{hidden_states, to_dtype(golden.tensor("img_ids")[row], DType::kF32),
                   Tensor::allocate(hidden_states.shape(), golden.dtype)}};
  input.clock = StepClock::single(number("timestep"));
  if (golden.has("guidance")) input.guidance = number("guidance");
  input.pooled_projections = typed("pooled_projections");
  input.encoder_hidden_states = typed("encoder_hidden_states");
  input.txt_ids = to_dtype(golden.tensor("txt_ids")[row], DType::kF32);
  return input;
}

TEST_P(StagesGolden, Transformer) {
  for (const GoldenCase& golden : golden_cases(checkpoint(), "dit_transformer")) {
    LocalStages stages = make_stages(golden.dtype);
    const ConstTensor expected = golden.tensor("noise_pred");
    std::vector<TransformerInput> inputs;
    for (int64_t row = 0; row < expected.size(0); ++row) {
      inputs.push_back(transformer_input(golden, row));
    }
    stages.transformer(inputs);
    for (int64_t row = 0; row < expected.size(0); ++row) {
      const Tensor& found = inputs[static_cast<size_t>(row)].images[0].noise_pred;
      EXPECT_LT(relative_error(found, expected[row]), limit(golden.dtype))
          << golden.name << " row " << row;
    }
  }
}

TEST_P(StagesGolden, Vae) {
  for (const GoldenCase& golden : golden_cases(checkpoint(), "vae_decoder")) {
    LocalStages stages = make_stages(golden.dtype);
    const ConstTensor latents = golden.tensor("latents");
    for (int64_t row = 0; row < latents.size(0); ++row) {
      const ConstTensor image =
          to_host(stages.context(), stages.decode(to_dtype(latents[row], golden.dtype)));
      EXPECT_LT(relative_error(image, golden.tensor("image")[row]), limit(golden.dtype))
          << golden.name << " row " << row;
    }
  }
}

TEST_P(StagesGolden, VaeEncoder) {
  for (const GoldenCase& golden : golden_cases(checkpoint(), "vae_encoder")) {
    LocalStages stages = make_stages(golden.dtype);
    const ConstTensor images = golden.tensor("image");
    for (int64_t row = 0; row < images.size(0); ++row) {
      const auto seed = static_cast<uint64_t>(golden.tensor("seed").data<int64_t>()[row]);
      const PosteriorDraw draw{.seed = seed};
      const std::vector<Tensor> mean = stages.encode_image(images[row], {});
      const std::vector<Tensor> samples = stages.encode_image(images[row], {&draw, 1});
      ASSERT_EQ(mean.size(), 1U);
      ASSERT_EQ(samples.size(), 1U);
      EXPECT_LT(relative_error(mean[0], golden.tensor("latents")[row]), limit(golden.dtype))
          << golden.name << " row " << row;
      EXPECT_LT(relative_error(samples[0], golden.tensor("samples")[row]), limit(golden.dtype))
          << golden.name << " row " << row;
    }
  }
}

/// Collects what a forward traces.
class Recorder {
 public:
  explicit Recorder(Context& ctx) {
    ctx.set_trace([this](std::string_view name, const ConstTensor& value) {
      values_.emplace(std::string(name), to_dtype(value, DType::kF32));
    });
  }

  /// Compares with every golden tensor of the same name; images are turned to channels first.
  /// Names the first layers that differ. At least `least` names must match up.
  void expect_equal(const GoldenCase& golden, size_t least) const {
    size_t compared = 0;
    for (const auto& [name, found] : values_) {
      if (!golden.has(name)) continue;
      const ConstTensor expected = golden.tensor(name)[0];
      const bool image = expected.rank() == 3;
      EXPECT_LT(relative_error(image ? channels_first(found) : found, expected), kF32Limit)
          << golden.checkpoint << ": " << name;
      ++compared;
    }
    EXPECT_GE(compared, least) << golden.checkpoint << ": " << golden.name;
  }

 private:
  static Tensor channels_first(const ConstTensor& image) {
    const int64_t pixels = image.size(0) * image.size(1);
    const int64_t channels = image.size(2);
    Tensor result = Tensor::allocate({channels, image.size(0), image.size(1)}, DType::kF32);
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t i = 0; i < pixels; ++i) {
        result.data<float>()[c * pixels + i] = image.data<float>()[i * channels + c];
      }
    }
    return result;
  }

  std::map<std::string, Tensor> values_;
};

TEST_P(LayersGolden, LayersOfTheTransformer) {
  const GoldenCase golden = golden_trace(checkpoint(), "dit_transformer");
  LocalStages stages = make_stages(DType::kF32);
  const Recorder recorder(stages.context());
  const TransformerInput input = transformer_input(golden, 0);
  stages.transformer({&input, 1});
  const FluxTransformerConfig& config = open_golden(checkpoint())->config().transformer;
  const int64_t blocks = config.num_layers + config.num_single_layers;
  recorder.expect_equal(golden, static_cast<size_t>(2 * blocks + 3));
}

TEST_P(LayersGolden, LayersOfTheVae) {
  const GoldenCase golden = golden_trace(checkpoint(), "vae_decoder");
  LocalStages stages = make_stages(DType::kF32);
  const Recorder recorder(stages.context());
  stages.decode(to_dtype(golden.tensor("latents")[0], DType::kF32));
  const size_t blocks = open_golden(checkpoint())->config().vae.block_out_channels.size();
  recorder.expect_equal(golden, blocks + 3);
}

TEST_P(LayersGolden, LayersOfTheVaeEncoder) {
  const GoldenCase golden = golden_trace(checkpoint(), "vae_encoder");
  LocalStages stages = make_stages(DType::kF32);
  const Recorder recorder(stages.context());
  stages.encode_image(golden.tensor("image")[0], {});
  const size_t blocks = open_golden(checkpoint())->config().vae.block_out_channels.size();
  recorder.expect_equal(golden, blocks + 3);
}

TEST_P(LayersGolden, LayersOfTheTextEncoders) {
  LocalStages stages = make_stages(DType::kF32);
  const FluxConfig& config = open_golden(checkpoint())->config();
  {
    const GoldenCase golden = golden_trace(checkpoint(), "t5_encoder");
    const Recorder recorder(stages.context());
    stages.encode_t5(golden.recipe["prompts"][0].get<std::string>(),
                     golden.recipe["max_sequence_length"].get<int>(), nullptr);
    recorder.expect_equal(golden, static_cast<size_t>(config.t5.num_layers));
  }
}

INSTANTIATE_TEST_SUITE_P(Settings, StagesGolden, ::testing::ValuesIn(golden_settings()),
                         [](const auto& test) { return name_of(test.param); });
INSTANTIATE_TEST_SUITE_P(SingleFiles, StagesGolden, ::testing::ValuesIn(single_file_settings()),
                         [](const auto& test) { return name_of(test.param); });
INSTANTIATE_TEST_SUITE_P(Settings, LayersGolden, ::testing::ValuesIn(golden_settings()),
                         [](const auto& test) { return name_of(test.param); });

}  // namespace
}  // namespace flux::testing
