#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "convert/model_config.h"
#include "convert/templates.h"
#include "pipeline/request_fields.h"
#include "support/error.h"

namespace flux {
namespace {

std::string error_of(const Template& source, const TemplateValues& values) {
  try {
    fill_template(source, values);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInternal);
    return error.what();
  }
  return "no error";
}

TEST(FillTemplate, ReplacesEveryPlaceholder) {
  const Template source{"model", "a: @A@\nb: [ @B_2@, @A@ ]"};
  EXPECT_EQ(fill_template(source, {{"A", "1"}, {"B_2", "@A@"}}), "a: 1\nb: [ @A@, 1 ]");
  EXPECT_EQ(fill_template({"model", ""}, {}), "");
}

TEST(FillTemplate, RefusesAPlaceholderWithoutValue) {
  EXPECT_EQ(error_of({"vae", "@A@ @B@"}, {{"A", "1"}}),
            "template vae: there is no value for placeholder @B@");
}

TEST(FillTemplate, RefusesAValueWithoutPlaceholder) {
  EXPECT_EQ(error_of({"vae", "@A@"}, {{"A", "1"}, {"B", "2"}}),
            "template vae: value 2 is given for @B@, which it does not have");
}

TEST(FillTemplate, RefusesAStrayMark) {
  for (const char* text : {"a @", "@@", "a@b.c", "@A", "@A B@"}) {
    EXPECT_NE(error_of({"vae", text}, {{"A", "1"}}).find("begins no placeholder"),
              std::string::npos)
        << text;
  }
}

/// Without the file that says what a directory is for.
std::vector<ModelFile> make_configs(const ServingOptions& options) {
  std::vector<ModelFile> files = make_model_files(FluxConfig{}, options);
  EXPECT_EQ(std::erase_if(files,
                          [](const ModelFile& file) {
                            return file.model == "bls" && file.name == "loras/README.md";
                          }),
            1U);
  return files;
}

TEST(ModelConfigs, AreMadeForEveryDtypeAndModel) {
  for (const auto& [dtype, type] :
       {std::pair(DType::kF32, "TYPE_FP32"), std::pair(DType::kBF16, "TYPE_BF16"),
        std::pair(DType::kF16, "TYPE_FP16")}) {
    ServingOptions options;
    options.dtype = dtype;
    std::vector<std::string> names;
    for (const ModelFile& model : make_configs(options)) {
      EXPECT_EQ(model.name, "config.pbtxt");
      names.push_back(model.model);
      EXPECT_EQ(model.text.find('@'), std::string::npos) << model.model;
      if (model.model == "bls" || model.model == "bls_stream") continue;
      EXPECT_NE(model.text.find(type), std::string::npos) << model.model;
    }
    std::sort(names.begin(), names.end());
    EXPECT_EQ(names, (std::vector<std::string>{"bls", "bls_stream", "clip_encoder",
                                               "dit_transformer", "t5_encoder", "vae_decoder"}));
  }
}

TEST(ModelConfigs, PutTheStagesOnTheDevice) {
  ServingOptions options;
  options.device = {Device::Kind::kCuda, 0};
  options.instances = 3;
  for (const ModelFile& model : make_configs(options)) {
    const bool pipeline = model.model == "bls" || model.model == "bls_stream";
    const char* group =
        pipeline ? "[ { count: 96 kind: KIND_CPU } ]" : "[ { count: 3 kind: KIND_GPU } ]";
    EXPECT_NE(model.text.find(group), std::string::npos) << model.text;
    EXPECT_NE(model.text.find("key: \"device\" value: { string_value: \"cuda\" }"),
              std::string::npos);
  }
}

/// The line of instance_group in the config.pbtxt of a model.
std::string instances_of(const std::string& model, const ServingOptions& options) {
  for (const ModelFile& config : make_model_files(FluxConfig{}, options)) {
    if (config.model != model) continue;
    const size_t begin = config.text.find("instance_group [");
    return config.text.substr(begin, config.text.find('\n', begin) - begin);
  }
  return "";
}

TEST(ModelConfigs, PutStagesOnEveryGpuOrOnOneAndBlsOnTheCpu) {
  ServingOptions options;
  EXPECT_EQ(instances_of("vae_decoder", options), "instance_group [ { count: 1 kind: KIND_CPU } ]");
  options.device = Device{Device::Kind::kCuda, 0};
  EXPECT_EQ(instances_of("vae_decoder", options), "instance_group [ { count: 1 kind: KIND_GPU } ]");
  options.device.index = 1;
  options.every_gpu = false;
  EXPECT_EQ(instances_of("dit_transformer", options),
            "instance_group [ { count: 1 kind: KIND_GPU gpus: [ 1 ] } ]");
  EXPECT_EQ(instances_of("bls", options), "instance_group [ { count: 32 kind: KIND_CPU } ]");
  for (const ModelFile& config : make_configs(options)) {
    EXPECT_NE(config.text.find("string_value: \"cuda:1\""), std::string::npos) << config.model;
  }
}

TEST(ModelConfigs, HaveAStreamWhereThePipelineIsNative) {
  const auto stream_of = [](const ServingOptions& options) {
    for (const ModelFile& file : make_model_files(FluxConfig{}, options)) {
      if (file.model == options.prefix + "bls_stream") return file.text;
    }
    return std::string();
  };
  ServingOptions options;
  options.prefix = "dev_";
  options.in_python = {"vae_decoder"};
  const std::string text = stream_of(options);
  EXPECT_NE(text.find("name: \"dev_bls_stream\"\nmodel_transaction_policy { decoupled: true }"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("name: \"preview_every\""), std::string::npos);
  EXPECT_NE(text.find("name: \"num_inference_steps\""), std::string::npos);
  options.in_python = {"bls"};
  EXPECT_EQ(stream_of(options), "");
}

TEST(ModelConfigs, MixBackends) {
  ServingOptions options;
  options.instances = 2;
  options.in_python = {"bls", "vae_decoder"};
  std::vector<std::string> names;
  for (const ModelFile& file : make_model_files(FluxConfig{}, options)) {
    names.push_back(file.model + "/" + file.name);
    if (file.name != "config.pbtxt") continue;
    EXPECT_EQ(file.text.find('@'), std::string::npos) << file.model;
    const bool python = file.model == "bls" || file.model == "vae_decoder";
    const char* backend = python ? "backend: \"python\"" : "backend: \"flux\"";
    EXPECT_NE(file.text.find(backend), std::string::npos) << file.text;
    if (file.model != "bls") continue;
    EXPECT_NE(file.text.find("[ { count: 8 kind: KIND_CPU } ]"), std::string::npos);
  }
  EXPECT_EQ(
      names,
      (std::vector<std::string>{
          "bls/config.pbtxt", "bls/1/model.py", "bls/1/bls_request.py", "bls/1/bls_images.py",
          "bls/1/request_fields.json", "clip_encoder/config.pbtxt", "t5_encoder/config.pbtxt",
          "dit_transformer/config.pbtxt", "vae_decoder/config.pbtxt", "vae_decoder/1/model.py"}));
}

TEST(ModelConfigs, HandTheTableOfRequestFieldsToPython) {
  ServingOptions options;
  options.in_python = {"bls"};
  FluxConfig config;
  config.transformer.guidance_embeds = true;
  nlohmann::json fields;
  std::string inputs;
  for (const ModelFile& file : make_model_files(config, options)) {
    if (file.name == "1/request_fields.json") fields = nlohmann::json::parse(file.text);
    if (file.model == "bls" && file.name == "config.pbtxt") inputs = file.text;
  }
  ASSERT_EQ(fields.size(), request_fields().size());
  size_t last = 0;
  for (size_t i = 0; i < fields.size(); ++i) {
    const std::string name = fields[i]["name"];
    EXPECT_EQ(name, request_fields()[i].name);
    const size_t at = inputs.find(fmt::format("    name: \"{}\"  # ", name));
    ASSERT_NE(at, std::string::npos) << name;
    EXPECT_GT(at, last) << "the order of the table";
    last = at;
  }
  const nlohmann::json steps = {{"name", "num_inference_steps"},
                                {"alias", "steps"},
                                {"type", "integer"},
                                {"low", 1},
                                {"high", 1000},
                                {"default", 28}};
  const nlohmann::json seed = {{"name", "seed"}, {"type", "integer"}, {"low", 0}};
  EXPECT_EQ(std::count(fields.begin(), fields.end(), steps), 1);
  EXPECT_EQ(std::count(fields.begin(), fields.end(), seed), 1);
}

}  // namespace
}  // namespace flux
