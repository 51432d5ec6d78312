#include "adapters/dialects.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "models/flux1/names.h"

namespace flux {
namespace {

/// "kohya: transformer_blocks.3.attn.to_q+transformer_blocks.3.attn.to_k+..." of a module's name.
std::string meaning(const std::string& name) {
  const auto found = find_named_module(name);
  if (!found) return "";
  std::string text = std::string(found->dialect) + ": ";
  for (const ModulePart& part : found->parts) {
    std::string module(part.module->name);
    const size_t hash = module.find('#');
    if (hash != module.npos) module.replace(hash, 1, std::to_string(found->block));
    text += (&part == found->parts.data() ? "" : "+") + module;
  }
  return text;
}

TEST(Dialects, NamesOfModules) {
  const std::string qkv =
      "transformer_blocks.12.attn.to_q+transformer_blocks.12.attn.to_k+"
      "transformer_blocks.12.attn.to_v";
  const std::string single =
      "single_transformer_blocks.37.attn.to_q+single_transformer_blocks.37.attn.to_k+"
      "single_transformer_blocks.37.attn.to_v";
  const std::pair<std::string, std::string> cases[] = {
      {"transformer.transformer_blocks.12.attn.to_out.0",
       "diffusers: transformer_blocks.12.attn.to_out.0"},
      {"base_model.model.transformer_blocks.12.ff.net.0.proj",
       "PEFT: transformer_blocks.12.ff.net.0.proj"},
      {"base_model.model.transformer.x_embedder", "diffusers: x_embedder"},
      {"base_model.model.double_blocks.12.img_attn.qkv", "Black Forest Labs: " + qkv},
      {"lora_unet_double_blocks_12_img_attn_qkv", "kohya: " + qkv},
      {"lora_unet_single_blocks_37_linear1",
       "kohya: " + single + "+single_transformer_blocks.37.proj_mlp"},
      {"lora_unet_time_in_in_layer", "kohya: time_text_embed.timestep_embedder.linear_1"},
      {"lora_unet_guidance_in_out_layer", "kohya: time_text_embed.guidance_embedder.linear_2"},
      {"lora_unet_vector_in_in_layer", "kohya: time_text_embed.text_embedder.linear_1"},
      {"lora_unet_img_in", "kohya: x_embedder"},
      {"lora_unet_txt_in", "kohya: context_embedder"},
      {"lora_unet_final_layer_adaLN_modulation_1", "kohya: norm_out.linear"},
      {"lora_unet_final_layer_linear", "kohya: proj_out"},
      {"lora_unet_transformer_blocks_3_ff_net_2", "kohya: transformer_blocks.3.ff.net.2"},
      {"lora_te1_text_model_encoder_layers_11_mlp_fc1",
       "kohya: text_model.encoder.layers.11.mlp.fc1"},
      {"lora_te_text_model_encoder_layers_0_self_attn_out_proj",
       "kohya: text_model.encoder.layers.0.self_attn.out_proj"},
      {"lora_te3_encoder_block_23_layer_1_DenseReluDense_wi_0",
       "kohya: encoder.block.23.layer.1.DenseReluDense.wi_0"},
      {"lora_te2_encoder_block_0_layer_0_SelfAttention_k",
       "OneTrainer: encoder.block.0.layer.0.SelfAttention.k"},
      {"lora_transformer_single_transformer_blocks_5_attn_to_v",
       "OneTrainer: single_transformer_blocks.5.attn.to_v"},
      {"lora_transformer_norm_out_linear", "OneTrainer: norm_out.linear"},
      {"lycoris_transformer_blocks_0_attn_add_k_proj",
       "LyCORIS: transformer_blocks.0.attn.add_k_proj"},
      {"diffusion_model.double_blocks.12.img_attn.qkv", "ComfyUI: " + qkv},
      {"model.diffusion_model.single_blocks.0.linear2",
       "ComfyUI: single_transformer_blocks.0.proj_out"},
      {"text_encoders.clip_l.transformer.text_model.encoder.layers.2.mlp.fc2",
       "ComfyUI: text_model.encoder.layers.2.mlp.fc2"},
      {"text_encoders.t5xxl.transformer.encoder.block.1.layer.0.SelfAttention.o",
       "ComfyUI: encoder.block.1.layer.0.SelfAttention.o"},
      {"text_encoder.text_model.encoder.layers.2.self_attn.v_proj",
       "diffusers: text_model.encoder.layers.2.self_attn.v_proj"},
      {"text_encoder.encoder.layers.2.self_attn.v_proj",
       "diffusers: text_model.encoder.layers.2.self_attn.v_proj"},
      {"text_encoder_2.encoder.block.1.layer.1.DenseReluDense.wo",
       "diffusers: encoder.block.1.layer.1.DenseReluDense.wo"},
      {"double_blocks.12.processor.qkv_lora1", "XLabs: " + qkv},
      {"double_blocks.0.processor.proj_lora2", "XLabs: transformer_blocks.0.attn.to_add_out"},
      {"diffusion_model.single_blocks.37.processor.qkv_lora", "XLabs: " + single},
      {"single_blocks.1.processor.proj_lora", "XLabs: single_transformer_blocks.1.proj_out"},
      {"double_blocks.1.img_attn.norm.query_norm",
       "Black Forest Labs: transformer_blocks.1.attn.norm_q"},
  };
  for (const auto& [name, expected] : cases) EXPECT_EQ(meaning(name), expected) << name;
}

TEST(Dialects, OtherNamesAreOfNoModule) {
  for (const char* name : {"",
                           ".",
                           "transformer.",
                           "lora_unet_",
                           "transformer.transformer_blocks.12.attn",
                           "transformer.transformer_blocks.012.attn.to_q",
                           "transformer.transformer_blocks.attn.to_q",
                           "transformer.transformer_blocks.-1.attn.to_q",
                           "transformer.transformer_blocks.#.attn.to_q",
                           "transformer.transformer_blocks.99999.attn.to_q",
                           "lora_unet_double_blocks_#_img_attn_qkv",
                           "transformer.transformer_blocks.1.2.attn.to_q",
                           "xtransformer_blocks.1.attn.to_q",
                           "lora_unet_double_blocks.1.img_attn.qkv",
                           "diffusion_model.double_blocks_1_img_attn_qkv",
                           "lora_unet_input_blocks_4_1_proj_in",
                           "lora_te1_encoder_block_0_layer_0_SelfAttention_q",
                           "lora_te2_text_model_encoder_layers_0_mlp_fc1",
                           "transformer.lora_unet_img_in",
                           "base_model.model.base_model.model.x_embedder",
                           "transformer.x_embedder.x_embedder"}) {
    EXPECT_EQ(meaning(name), "") << name;
  }
}

TEST(Dialects, EveryNameOfBlackForestLabsIsOfAModule) {
  std::set<std::string_view> modules;
  for (const NameRow& row : bfl_transformer_names()) {
    const std::string_view module = row.ours.substr(0, row.ours.rfind('.'));
    modules.insert(module);
    EXPECT_NE(find_module(AdapterModel::kTransformer, module), nullptr) << module;
  }
  for (const Module& module : adapter_modules()) {
    if (module.model != AdapterModel::kTransformer) continue;
    EXPECT_TRUE(modules.contains(module.name)) << module.name;
  }
}

TEST(Dialects, RolesOfTensors) {
  const std::pair<std::string, TensorRole> cases[] = {
      {"a.lora_A.weight", TensorRole::kDown},
      {"a.lora_A.default.weight", TensorRole::kDown},
      {"a.lora.down.weight", TensorRole::kDown},
      {"a.lora_up.weight", TensorRole::kUp},
      {"a.lora_B.bias", TensorRole::kUpBias},
      {"a.alpha", TensorRole::kAlpha},
      {"a.lora_magnitude_vector", TensorRole::kDoraScale},
      {"a.lokr_w2_b", TensorRole::kLokrW2B},
      {"a.hada_t1", TensorRole::kTucker},
      {"a.diff_b", TensorRole::kBiasDifference},
      {"a.weight", TensorRole::kWhole},
  };
  for (const auto& [name, role] : cases) {
    const auto parsed = parse_tensor_name(name);
    ASSERT_TRUE(parsed.has_value()) << name;
    EXPECT_EQ(parsed->module, "a") << name;
    EXPECT_EQ(parsed->role, role) << name;
  }
  EXPECT_FALSE(parse_tensor_name("a.lokr").has_value());
  EXPECT_FALSE(parse_tensor_name("alpha").has_value());
}

}  // namespace
}  // namespace flux
