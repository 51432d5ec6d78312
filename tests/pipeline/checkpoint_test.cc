#include "pipeline/checkpoint.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "support/error.h"

namespace flux {
namespace {

namespace fs = std::filesystem;

/// A scratch directory that goes with the test.
class ScratchTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    directory_ = fs::temp_directory_path() /
                 ("flux_pipeline_test." + std::to_string(::getpid()) + "." + test->name());
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }
  void TearDown() override { fs::remove_all(directory_); }

  fs::path write(const std::string& name, const std::string& text) const {
    fs::create_directories((directory_ / name).parent_path());
    std::ofstream(directory_ / name) << text;
    return directory_ / name;
  }
  std::string refusal(const std::function<void()>& action) const {
    try {
      action();
    } catch (const Error& e) {
      return e.what();
    }
    return "accepted";
  }

  fs::path directory_;
};

using ConfigTest = ScratchTest;

TEST_F(ConfigTest, MissingKeysAndNullTakeTheClassDefaults) {
  const FluxTransformerConfig transformer =
      load_flux_transformer_config(write("t.json", R"({"out_channels":null,"num_layers":null})"));
  EXPECT_EQ(transformer.num_layers, 19);
  EXPECT_EQ(transformer.num_single_layers, 38);
  EXPECT_EQ(transformer.inner_dim(), 3072);
  EXPECT_EQ(transformer.out_channels, 64);
  EXPECT_FALSE(transformer.guidance_embeds);
  const T5Config t5 = load_t5_config(write("t5.json", "{}"));
  EXPECT_FALSE(t5.gated);
  EXPECT_EQ(t5.activation, Activation::kRelu);
  const ClipConfig clip = load_clip_config(write("c.json", "{}"));
  EXPECT_EQ(clip.eos_token_id, 49407);
  EXPECT_EQ(clip.hidden_act, Activation::kQuickGelu);
  const SchedulerConfig scheduler = load_scheduler_config(write("s.json", "{}"));
  EXPECT_FALSE(scheduler.use_dynamic_shifting);
  EXPECT_EQ(scheduler.shift, 1.0);
  const VaeConfig vae = load_vae_config(write("v.json", R"({"shift_factor":0.1})"));
  EXPECT_EQ(vae.block_out_channels, (std::vector<int64_t>{64}));
  EXPECT_TRUE(vae.use_post_quant_conv);
}

TEST_F(ConfigTest, T5ActivationsAreTransformers) {
  const auto load = [&](const char* text) { return load_t5_config(write("t5.json", text)); };
  EXPECT_EQ(load(R"({"feed_forward_proj":"gated-gelu"})").activation, Activation::kGeluTanh);
  EXPECT_TRUE(load(R"({"feed_forward_proj":"gated-gelu"})").gated);
  EXPECT_EQ(load(R"({"feed_forward_proj":"gelu"})").activation, Activation::kGeluErf);
  EXPECT_EQ(load(R"({"feed_forward_proj":"gated-silu"})").activation, Activation::kSilu);
  // Explicit keys override what feed_forward_proj says.
  const T5Config explicit_keys =
      load(R"({"feed_forward_proj":"relu","dense_act_fn":"gelu_new","is_gated_act":true})");
  EXPECT_EQ(explicit_keys.activation, Activation::kGeluTanh);
  EXPECT_TRUE(explicit_keys.gated);
}

TEST_F(ConfigTest, RefusalsNameFileKeyValueAndWhatIsAllowed) {
  struct Case {
    std::function<void(const fs::path&)> load;
    const char* text;
    const char* says;
  };
  const auto transformer = [](const fs::path& f) { load_flux_transformer_config(f); };
  const auto clip = [](const fs::path& f) { load_clip_config(f); };
  const auto t5 = [](const fs::path& f) { load_t5_config(f); };
  const auto vae = [](const fs::path& f) { load_vae_config(f); };
  const auto scheduler = [](const fs::path& f) { load_scheduler_config(f); };
  const Case cases[] = {
      {transformer, "[]", "not a JSON object"},
      {transformer, "{", "not valid JSON"},
      {transformer, R"({"num_layers":-1})",
       "'num_layers' is -1: expected an integer from 0 to 1024"},
      {transformer, R"({"num_layers":1e3})", "'num_layers' is 1000.0: expected an integer"},
      {transformer, R"({"num_layers":99999999999999999999})", "expected an integer"},
      {transformer, R"({"num_layers":18446744073709551615})", "expected an integer"},
      {transformer, R"({"num_attention_heads":"24"})", "'num_attention_heads' is \"24\""},
      {transformer, R"({"num_attention_heads":1048576,"attention_head_dim":1048576})",
       "num_attention_heads x attention_head_dim is too large"},
      {transformer, R"({"patch_size":2})", "'patch_size' is 2: only 1 is supported"},
      {transformer, R"({"in_channels":66})", "'in_channels' is 66: expected a multiple of 4"},
      {transformer, R"({"guidance_embeds":1})", "'guidance_embeds' is 1: expected true or false"},
      {transformer, R"({"axes_dims_rope":[16,56]})", "expected 3 sizes that add up to"},
      {transformer, R"({"axes_dims_rope":[15,57,56]})", "expected even sizes"},
      {transformer, R"({"axes_dims_rope":[]})", "expected a list of 1 to 16 sizes"},
      {transformer, R"({"axes_dims_rope":[-16,56,56]})", "expected a list of 1 to 16 sizes"},
      {clip, R"({"hidden_act":"tanh"})", "'hidden_act' is \"tanh\": expected quick_gelu"},
      {clip, R"({"hidden_size":100,"num_attention_heads":7})", "is not a multiple of"},
      {clip, R"({"layer_norm_eps":-1})", "'layer_norm_eps' is -1: expected a number"},
      {t5, R"({"feed_forward_proj":"gated-tanh"})", "'feed_forward_proj' is \"tanh\""},
      {t5, R"({"relative_attention_num_buckets":3})", "expected an integer from 4 to 65536"},
      {t5, R"({"relative_attention_max_distance":8})", "expected more than a quarter"},
      {vae, "{}", "'shift_factor' is missing"},
      {vae, R"({"shift_factor":0,"act_fn":"relu"})", "'act_fn' is \"relu\": only \"silu\""},
      {vae, R"({"shift_factor":0,"scaling_factor":0})", "'scaling_factor' is 0"},
      {vae, R"({"shift_factor":0,"block_out_channels":[64,64]})", "'up_block_types' is missing"},
      {vae,
       R"({"shift_factor":0,"block_out_channels":[64,64],"up_block_types":["UpDecoderBlock2D","X"]})",
       "'up_block_types' is"},
      {vae, R"({"shift_factor":0,"block_out_channels":[48]})", "multiples of norm_num_groups, 32"},
      {scheduler, R"({"use_karras_sigmas":true})", "only false is supported"},
      {scheduler, R"({"time_shift_type":"cubic"})", "expected exponential or linear"},
      {scheduler, R"({"base_image_seq_len":4096})", "another value than base_image_seq_len"},
      {scheduler, R"({"shift":0})", "'shift' is 0"},
  };
  for (const Case& c : cases) {
    const fs::path file = write("config.json", c.text);
    const std::string message = refusal([&] { c.load(file); });
    EXPECT_NE(message.find(c.says), std::string::npos) << c.text << ": " << message;
    EXPECT_EQ(message.rfind(file.string(), 0), 0u) << message;
  }
  const std::string deep =
      refusal([&] { load_clip_config(write("config.json", std::string(100000, '['))); });
  EXPECT_NE(deep.find("nests deeper than 64 levels"), std::string::npos) << deep;
}

class CheckpointTest : public ScratchTest {
 protected:
  void SetUp() override {
    ScratchTest::SetUp();
    fs::copy(fs::path(FLUX_TEST_DATA) / "checkpoints" / "tiny-dev", directory_,
             fs::copy_options::recursive);
  }
  std::string open_refusal() const {
    return refusal([&] { Checkpoint::open(directory_); });
  }
  /// Replaces the first `from` in a file of the checkpoint.
  void edit(const std::string& name, const std::string& from, const std::string& to) const {
    std::ifstream in(directory_ / name);
    std::string text((std::istreambuf_iterator<char>(in)), {});
    const size_t at = text.find(from);
    ASSERT_NE(at, text.npos) << name << ": " << from;
    write(name, text.replace(at, from.size(), to));
  }
};

TEST_F(CheckpointTest, Opens) {
  const auto checkpoint = Checkpoint::open(directory_.string() + "/");
  EXPECT_EQ(checkpoint->name(), directory_.filename());
  EXPECT_EQ(checkpoint->index().components.size(), 7u);
  EXPECT_EQ(checkpoint->stored_dtype(), DType::kF32);
}

TEST_F(CheckpointTest, RefusesWhatIsNoFluxCheckpoint) {
  EXPECT_NE(refusal([&] { Checkpoint::open(directory_ / "x"); }).find("no such file or directory"),
            std::string::npos);
  edit("model_index.json", "\"FluxPipeline\"", "\"FluxPriorReduxPipeline\"");
  EXPECT_NE(open_refusal().find("FluxPriorReduxPipeline is not supported yet, only FluxPipeline"),
            std::string::npos)
      << open_refusal();
  edit("model_index.json", "\"FluxPriorReduxPipeline\"", "\"FluxX\"");
  EXPECT_NE(open_refusal().find("class is \"FluxX\", expected FluxPipeline"), std::string::npos)
      << open_refusal();
}

TEST_F(CheckpointTest, RefusesAnUnknownComponentClass) {
  edit("model_index.json", "\"AutoencoderKL\"", "\"AutoencoderTiny\"");
  EXPECT_NE(open_refusal().find("component 'vae' has class 'AutoencoderTiny', expected"),
            std::string::npos)
      << open_refusal();
}

TEST_F(CheckpointTest, RefusesMissingParts) {
  fs::rename(directory_ / "vae", directory_ / "vae_");
  EXPECT_NE(open_refusal().find("directory of component 'vae' is missing"), std::string::npos);
  fs::rename(directory_ / "vae_", directory_ / "vae");
  fs::remove(directory_ / "vae" / "config.json");
  EXPECT_NE(open_refusal().find("vae/config.json: cannot be opened"), std::string::npos);
  fs::remove(directory_ / "model_index.json");
  EXPECT_NE(open_refusal().find("there is no model_index.json"), std::string::npos);
}

TEST_F(CheckpointTest, RefusesPartsOfDifferentModels) {
  edit("transformer/config.json", "\"pooled_projection_dim\": 24", "\"pooled_projection_dim\": 32");
  EXPECT_NE(open_refusal().find("'pooled_projection_dim' is 32, expected 24, which is"),
            std::string::npos)
      << open_refusal();
}

}  // namespace
}  // namespace flux
