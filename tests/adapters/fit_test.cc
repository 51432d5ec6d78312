#include "adapters/fit.h"

#include <gtest/gtest.h>

#include "made_file.h"

namespace flux {
namespace {

using testing::find_change;
using testing::MadeFile;
using testing::says;
using Names = std::vector<std::string>;

/// A model that is 8 wide.
FluxTransformerConfig small_transformer() {
  FluxTransformerConfig config;
  config.in_channels = 4;
  config.out_channels = 4;
  config.num_layers = 2;
  config.num_single_layers = 3;
  config.attention_head_dim = 4;
  config.num_attention_heads = 2;
  config.joint_attention_dim = 12;
  config.pooled_projection_dim = 10;
  return config;
}

std::string refusal(MadeFile& file, const FluxTransformerConfig& config) {
  const Adapter adapter = file.read();
  try {
    fit_adapter(adapter, {config});
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "accepted";
}

TEST(FitAdapter, WhatAModelLacksIsUnused) {
  MadeFile file;
  file.add_pair("lora_unet_double_blocks_1_img_attn_qkv", 24, 8, 2);
  file.add_pair("lora_unet_double_blocks_2_img_attn_proj", 8, 8, 2);
  file.add_pair("lora_unet_guidance_in_out_layer", 8, 8, 2);
  file.add_pair("lora_te1_text_model_encoder_layers_1_mlp_fc1", 40, 10, 2);
  file.add("lora_unet_unheard_of.alpha", {}, {1});
  const Adapter adapter = file.read();
  const FluxTransformerConfig config = small_transformer();
  const Adapter fitted = fit_adapter(adapter, {config});
  EXPECT_EQ(fitted.changes.size(), 3u);
  EXPECT_EQ(fitted.unused, (Names{"lora_te1_text_model_encoder_layers_1_mlp_fc1.lora_down.weight",
                                  "lora_te1_text_model_encoder_layers_1_mlp_fc1.lora_up.weight",
                                  "lora_unet_double_blocks_2_img_attn_proj.lora_down.weight",
                                  "lora_unet_double_blocks_2_img_attn_proj.lora_up.weight",
                                  "lora_unet_guidance_in_out_layer.lora_down.weight",
                                  "lora_unet_guidance_in_out_layer.lora_up.weight",
                                  "lora_unet_unheard_of.alpha"}));
  FluxTransformerConfig guided = config;
  guided.guidance_embeds = true;
  ClipConfig clip;
  clip.hidden_size = 10;
  clip.intermediate_size = 40;
  const Adapter more = fit_adapter(adapter, {guided, &clip});
  EXPECT_EQ(more.changes.size(), 5u);
}

TEST(FitAdapter, GatedAndPlainT5) {
  MadeFile file;
  file.add_pair("lora_unet_img_in", 8, 4, 2);
  file.add_pair("lora_te3_encoder_block_0_layer_1_DenseReluDense_wi", 30, 12, 2);
  file.add_pair("lora_te3_encoder_block_0_layer_1_DenseReluDense_wi_0", 30, 12, 2);
  const Adapter adapter = file.read();
  const FluxTransformerConfig config = small_transformer();
  T5Config t5;
  t5.d_model = 12;
  t5.d_ff = 30;
  for (const bool gated : {false, true}) {
    t5.gated = gated;
    const Adapter fitted = fit_adapter(adapter, {config, nullptr, &t5});
    const std::string module = "encoder.block.0.layer.1.DenseReluDense.wi";
    EXPECT_EQ(find_change(fitted, module) != nullptr, !gated);
    EXPECT_EQ(find_change(fitted, module + "_0") != nullptr, gated);
    EXPECT_EQ(fitted.unused.size(), 2u);
  }
}

TEST(FitAdapter, AnotherWidthIsRefused) {
  const FluxTransformerConfig config = small_transformer();
  MadeFile wide;
  wide.add_pair("transformer.transformer_blocks.0.attn.to_q", 1536, 1536, 1, "lora_A", "lora_B");
  EXPECT_EQ(refusal(wide, config),
            "made: was made for a model with hidden size 1536, as that of Stable Diffusion 3 or "
            "3.5 medium, and this one has 8; give one that was trained for this model");
  MadeFile text;
  text.add_pair("lora_unet_txt_in", 8, 13, 1);
  EXPECT_TRUE(says(refusal(text, config), "with text width 13, and this one has 12; give"));
  MadeFile times;
  times.add_pair("lora_unet_time_in_in_layer", 8, 255, 1);
  EXPECT_TRUE(says(refusal(times, config), "with timestep channels 255"));
}

TEST(FitAdapter, InputsOfSeveralImagesAreKept) {
  const FluxTransformerConfig config = small_transformer();
  MadeFile control;
  control.add_pair("lora_unet_img_in", 8, 8, 2);
  EXPECT_EQ(refusal(control, config), "accepted");
  MadeFile other;
  other.add_pair("lora_unet_img_in", 8, 6, 2);
  EXPECT_TRUE(says(refusal(other, config), "input channels 6, and this one has 4"));
}

TEST(FitAdapter, NothingThatTheModelHas) {
  MadeFile file;
  file.add_pair("lora_unet_double_blocks_7_img_attn_proj", 8, 8, 2);
  EXPECT_EQ(refusal(file, small_transformer()),
            "made: nothing in it is for this model, which has 2 double and 3 single blocks; "
            "'transformer_blocks.7.attn.to_out.0' is the first that it changes; give one that was "
            "trained for this model");
}

}  // namespace
}  // namespace flux
