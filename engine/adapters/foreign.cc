#include "adapters/foreign.h"

namespace flux {
namespace {

/// A part of a name that no tensor of a FLUX.1 adapter has.
struct Sign {
  std::string_view part;
  std::string_view meaning;
};
constexpr Sign kSigns[] = {
    {"double_stream_modulation", "an adapter of FLUX.2"},
    {"single_stream_modulation", "an adapter of FLUX.2"},
    {"to_qkv_mlp_proj", "an adapter of FLUX.2"},
    {".img_mlp.net.", "an adapter of Qwen-Image"},
    {".txt_mlp.net.", "an adapter of Qwen-Image"},
    {"_img_mlp_net_", "an adapter of Qwen-Image"},
    {"_txt_mlp_net_", "an adapter of Qwen-Image"},
    {".img_mod.1.", "an adapter of Qwen-Image"},
    {"joint_blocks", "an adapter of Stable Diffusion 3"},
    {"lora_te2_text_model", "an adapter of Stable Diffusion XL"},
    {"lora_unet_input_blocks_", "an adapter of Stable Diffusion XL"},
    {"down_blocks_1_attentions_0_transformer_blocks_1_", "an adapter of Stable Diffusion XL"},
    {"down_blocks.1.attentions.0.transformer_blocks.1.", "an adapter of Stable Diffusion XL"},
    {"down_blocks", "an adapter of Stable Diffusion 1.5 or 2"},
    {"cross_attn", "an adapter of Wan"},
    {".img_attn_qkv.", "an adapter of HunyuanVideo"},
    {"noise_refiner", "an adapter of Z-Image or Lumina"},
    {"context_refiner", "an adapter of Z-Image or Lumina"},
    {"layers.0.attention.", "an adapter of Z-Image"},
    {"double_stream_blocks", "an adapter of HiDream"},
    {".attn1.", "an adapter of LTX-Video, PixArt or another model"},
    {"ip_adapter", "an IP-Adapter, not a LoRA"},
    {"controlnet_", "a ControlNet, not a LoRA"},
    {".oft_", "an OFT or BOFT adapter, which is not supported"},
    {".on_input", "an IA3 adapter, which is not supported"},
    {".a1.weight", "a GLoRA adapter, which is not supported"},
};

/// Whole names of textual inversions.
constexpr Sign kEmbeddings[] = {
    {"clip_l", "embeddings of a text encoder (textual inversion), not a LoRA"},
    {"t5xxl", "embeddings of a text encoder (textual inversion), not a LoRA"},
    {"emb_params", "embeddings of a text encoder (textual inversion), not a LoRA"},
};

}  // namespace

std::string_view what_adapter_is(std::span<const std::string> names) {
  for (const Sign& sign : kSigns) {
    for (const std::string& name : names) {
      if (name.find(sign.part) != name.npos) return sign.meaning;
    }
  }
  for (const Sign& sign : kEmbeddings) {
    for (const std::string& name : names) {
      if (name == sign.part) return sign.meaning;
    }
  }
  return "";
}

std::string_view model_of_width(int64_t hidden_size) {
  switch (hidden_size) {
    case 1536:
      return "Stable Diffusion 3 or 3.5 medium";
    case 2432:
      return "Stable Diffusion 3.5 large";
    case 3072:
      return "FLUX.1";
    case 6144:
      return "FLUX.2";
    default:
      return "";
  }
}

}  // namespace flux
