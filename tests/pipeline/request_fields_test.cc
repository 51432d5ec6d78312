#include "pipeline/request_fields.h"

#include <gtest/gtest.h>

#include <map>

namespace flux {
namespace {

const RequestField& field_named(std::string_view name) {
  for (const RequestField& field : request_fields()) {
    if (field.name == name) return field;
  }
  throw std::out_of_range(std::string(name));
}

TEST(RequestFields, HaveTheOptionsOfTheCommandLine) {
  std::map<std::string_view, std::string> options;
  for (const RequestField& field : request_fields()) options[field.name] = option_of(field);
  EXPECT_EQ(options, (std::map<std::string_view, std::string>{
                         {"prompt", "--prompt"},
                         {"prompt_2", "--prompt-2"},
                         {"negative_prompt", "--negative-prompt"},
                         {"true_cfg_scale", "--true-cfg-scale"},
                         {"num_inference_steps", "--steps"},
                         {"guidance_scale", "--guidance"},
                         {"height", "--height"},
                         {"width", "--width"},
                         {"seed", "--seed"},
                         {"num_images_per_prompt", "--images"},
                         {"max_sequence_length", "--max-sequence-length"},
                         {"quality", "--quality"}}));
  EXPECT_EQ(options.size(), request_fields().size()) << "a name is there twice";
}

TEST(RequestFields, SayWhatIsAllowed) {
  const auto allowed = [](std::string_view name) { return allowed_in_words(field_named(name)); };
  EXPECT_EQ(allowed("prompt"), "UTF-8, not blank, at most 64 KiB");
  EXPECT_EQ(allowed("negative_prompt"), "UTF-8, at most 64 KiB");
  EXPECT_EQ(allowed("true_cfg_scale"), "1 to 1000000");
  EXPECT_EQ(allowed("num_inference_steps"), "1 to 1000");
  EXPECT_EQ(allowed("guidance_scale"), "0 to 100");
  EXPECT_EQ(allowed("seed"), "0 or more");
  EXPECT_EQ(allowed("num_images_per_prompt"), "1 to 16");
  EXPECT_EQ(allowed("max_sequence_length"), "1 to 512");
}

TEST(RequestFields, SayTheirDefault) {
  const auto fallback = [](std::string_view name) { return default_in_words(field_named(name)); };
  EXPECT_EQ(fallback("prompt"), "");
  EXPECT_EQ(fallback("prompt_2"), "the prompt");
  EXPECT_EQ(fallback("num_inference_steps"), "28 with guidance embeddings, else 4");
  EXPECT_EQ(fallback("guidance_scale"), "3.5");
  EXPECT_EQ(fallback("num_images_per_prompt"), "1");
  EXPECT_EQ(fallback("max_sequence_length"), "512 with guidance embeddings, else 256");
}

TEST(RequestFields, AreFoundByTheirMember) {
  EXPECT_EQ(field_of(&Request::width).name, "width");
  EXPECT_EQ(field_of(&Request::seed).name, "seed");
}

TEST(RequestFields, KnowTheNameThatIsNear) {
  const std::pair<const char*, const char*> nearest[] = {
      {"step", "num_inference_steps"},
      {"Guidance", "guidance_scale"},
      {"image", "num_images_per_prompt"},
      {"max-sequence-lengths", "max_sequence_length"},
      {"num_inference_step", "num_inference_steps"},
      {"guidence_scale", "guidance_scale"},
      {"negativ_prompt", "negative_prompt"},
      {"hight", "height"}};
  for (const auto& [name, field] : nearest) EXPECT_EQ(near_name(name), field) << name;
  for (const char* name : {"", "w", "foo", "headers", "favourite_colour", "cfg", "scale"}) {
    EXPECT_EQ(near_name(name), std::nullopt) << name;
  }
  EXPECT_EQ(near_name(std::string(1 << 20, 's')), std::nullopt);
}

TEST(RequestFields, HaveTheWordsOfCommandLineAndServer) {
  EXPECT_EQ(alias_of(field_of(&Request::num_inference_steps)), "steps");
  EXPECT_EQ(alias_of(field_of(&Request::height)), "height");
  EXPECT_EQ(options_of(field_of(&Request::num_inference_steps)), "--steps,--num-inference-steps");
  EXPECT_EQ(options_of(field_of(&Request::height)), "--height");
}

TEST(RequestFields, ADefaultBeyondADeploymentsLimitIsTheLimit) {
  RequestLimits limits;
  limits.max_steps = 10;
  const RequestField& steps = field_of(&Request::num_inference_steps);
  FluxConfig config;
  config.transformer.guidance_embeds = true;
  EXPECT_EQ(default_of(std::get<IntegerField>(steps.kind), config, limits), 10);
  config.transformer.guidance_embeds = false;
  EXPECT_EQ(default_of(std::get<IntegerField>(steps.kind), config, limits), 4);
}

}  // namespace
}  // namespace flux
