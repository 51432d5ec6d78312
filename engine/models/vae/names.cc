#include "models/vae/names.h"

#include <string>
#include <vector>

#include "support/error.h"
#include "tensor/format.h"

namespace flux {
namespace {

constexpr StoredPart kMatrix{.is_matrix = true};

constexpr NameRow kBflNames[] = {
    {"encoder.conv_in.*", "encoder.conv_in.*"},
    {"encoder.down_blocks.#.resnets.#.norm1.*", "encoder.down.#.block.#.norm1.*"},
    {"encoder.down_blocks.#.resnets.#.conv1.*", "encoder.down.#.block.#.conv1.*"},
    {"encoder.down_blocks.#.resnets.#.norm2.*", "encoder.down.#.block.#.norm2.*"},
    {"encoder.down_blocks.#.resnets.#.conv2.*", "encoder.down.#.block.#.conv2.*"},
    {"encoder.down_blocks.#.resnets.#.conv_shortcut.*", "encoder.down.#.block.#.nin_shortcut.*"},
    {"encoder.down_blocks.#.downsamplers.0.conv.*", "encoder.down.#.downsample.conv.*"},
    {"encoder.mid_block.resnets.0.norm1.*", "encoder.mid.block_1.norm1.*"},
    {"encoder.mid_block.resnets.0.conv1.*", "encoder.mid.block_1.conv1.*"},
    {"encoder.mid_block.resnets.0.norm2.*", "encoder.mid.block_1.norm2.*"},
    {"encoder.mid_block.resnets.0.conv2.*", "encoder.mid.block_1.conv2.*"},
    {"encoder.mid_block.resnets.1.norm1.*", "encoder.mid.block_2.norm1.*"},
    {"encoder.mid_block.resnets.1.conv1.*", "encoder.mid.block_2.conv1.*"},
    {"encoder.mid_block.resnets.1.norm2.*", "encoder.mid.block_2.norm2.*"},
    {"encoder.mid_block.resnets.1.conv2.*", "encoder.mid.block_2.conv2.*"},
    {"encoder.mid_block.attentions.0.group_norm.*", "encoder.mid.attn_1.norm.*"},
    {"encoder.mid_block.attentions.0.to_q.*", "encoder.mid.attn_1.q.*", kMatrix},
    {"encoder.mid_block.attentions.0.to_k.*", "encoder.mid.attn_1.k.*", kMatrix},
    {"encoder.mid_block.attentions.0.to_v.*", "encoder.mid.attn_1.v.*", kMatrix},
    {"encoder.mid_block.attentions.0.to_out.0.*", "encoder.mid.attn_1.proj_out.*", kMatrix},
    {"encoder.conv_norm_out.*", "encoder.norm_out.*"},
    {"encoder.conv_out.*", "encoder.conv_out.*"},
    {"decoder.conv_in.*", "decoder.conv_in.*"},
    {"decoder.mid_block.resnets.0.norm1.*", "decoder.mid.block_1.norm1.*"},
    {"decoder.mid_block.resnets.0.conv1.*", "decoder.mid.block_1.conv1.*"},
    {"decoder.mid_block.resnets.0.norm2.*", "decoder.mid.block_1.norm2.*"},
    {"decoder.mid_block.resnets.0.conv2.*", "decoder.mid.block_1.conv2.*"},
    {"decoder.mid_block.resnets.1.norm1.*", "decoder.mid.block_2.norm1.*"},
    {"decoder.mid_block.resnets.1.conv1.*", "decoder.mid.block_2.conv1.*"},
    {"decoder.mid_block.resnets.1.norm2.*", "decoder.mid.block_2.norm2.*"},
    {"decoder.mid_block.resnets.1.conv2.*", "decoder.mid.block_2.conv2.*"},
    {"decoder.mid_block.attentions.0.group_norm.*", "decoder.mid.attn_1.norm.*"},
    {"decoder.mid_block.attentions.0.to_q.*", "decoder.mid.attn_1.q.*", kMatrix},
    {"decoder.mid_block.attentions.0.to_k.*", "decoder.mid.attn_1.k.*", kMatrix},
    {"decoder.mid_block.attentions.0.to_v.*", "decoder.mid.attn_1.v.*", kMatrix},
    {"decoder.mid_block.attentions.0.to_out.0.*", "decoder.mid.attn_1.proj_out.*", kMatrix},
    {"decoder.up_blocks.%.resnets.#.norm1.*", "decoder.up.%.block.#.norm1.*"},
    {"decoder.up_blocks.%.resnets.#.conv1.*", "decoder.up.%.block.#.conv1.*"},
    {"decoder.up_blocks.%.resnets.#.norm2.*", "decoder.up.%.block.#.norm2.*"},
    {"decoder.up_blocks.%.resnets.#.conv2.*", "decoder.up.%.block.#.conv2.*"},
    {"decoder.up_blocks.%.resnets.#.conv_shortcut.*", "decoder.up.%.block.#.nin_shortcut.*"},
    {"decoder.up_blocks.%.upsamplers.0.conv.*", "decoder.up.%.upsample.conv.*"},
    {"decoder.conv_norm_out.*", "decoder.norm_out.*"},
    {"decoder.conv_out.*", "decoder.conv_out.*"},
    {"quant_conv.*", "quant_conv.*"},
    {"post_quant_conv.*", "post_quant_conv.*"},
};

}  // namespace

std::span<const NameRow> bfl_vae_names() { return kBflNames; }

int64_t bfl_vae_levels(const TensorStore& store, std::string_view prefix) {
  return count_numbered(store, fmt::format("{}decoder.up.#.", prefix));
}

nlohmann::json infer_vae_config(const TensorStore& store) {
  const int64_t levels = count_numbered(store, "decoder.up_blocks.#.");
  std::vector<int64_t> channels;
  for (int64_t level = levels - 1; level >= 0; --level) {
    const std::string first = fmt::format("decoder.up_blocks.{}.resnets.0.conv1.weight", level);
    channels.push_back(shape_of(store, first, 4)[0]);
  }
  const int64_t latents = shape_of(store, "decoder.conv_in.weight", 4)[1];
  const int64_t resnets = count_numbered(store, "decoder.up_blocks.0.resnets.#.");
  return {{"_class_name", "AutoencoderKL"},
          {"act_fn", "silu"},
          {"out_channels", 3},
          {"latent_channels", latents},
          {"block_out_channels", channels},
          {"layers_per_block", resnets - 1},
          {"norm_num_groups", 32},
          {"sample_size", 1024},
          {"mid_block_add_attention",
           store.find("decoder.mid_block.attentions.0.to_q.weight") != nullptr},
          {"use_quant_conv", store.find("quant_conv.weight") != nullptr},
          {"use_post_quant_conv", store.find("post_quant_conv.weight") != nullptr},
          {"scaling_factor", 0.3611},
          {"shift_factor", 0.1159},
          {"down_block_types",
           std::vector<std::string>(static_cast<size_t>(levels), "DownEncoderBlock2D")},
          {"up_block_types",
           std::vector<std::string>(static_cast<size_t>(levels), "UpDecoderBlock2D")}};
}

}  // namespace flux
