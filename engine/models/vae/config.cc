#include "models/vae/config.h"

#include <fmt/format.h>

namespace flux {

VaeConfig load_vae_config(const ConfigReader& reader) {
  VaeConfig config;
  reader.require("act_fn", "silu");
  reader.require("in_channels", 3);
  reader.require("out_channels", 3);
  config.latent_channels = reader.size("latent_channels", config.latent_channels);
  config.block_out_channels = reader.sizes("block_out_channels", config.block_out_channels);
  config.layers_per_block = reader.layers("layers_per_block", config.layers_per_block);
  config.norm_num_groups = reader.size("norm_num_groups", config.norm_num_groups);
  // One number, or height and width.
  config.sample_size = reader.is_list("sample_size")
                           ? reader.sizes("sample_size", {}).front()
                           : reader.size("sample_size", config.sample_size);
  config.mid_block_add_attention = reader.boolean("mid_block_add_attention", true);
  config.use_quant_conv = reader.boolean("use_quant_conv", true);
  config.use_post_quant_conv = reader.boolean("use_post_quant_conv", true);
  config.scaling_factor = static_cast<float>(reader.number("scaling_factor", 0.18215, 1e-6, 1e6));
  if (!reader.has("shift_factor")) {
    reader.refuse("'shift_factor' is missing: FluxPipeline needs a number (FLUX.1: 0.1159)");
  }
  config.shift_factor = static_cast<float>(reader.number("shift_factor", 0, -1e6, 1e6));
  if (config.block_out_channels.size() > 8) {
    reader.refuse("block_out_channels", config.block_out_channels, "expected at most 8 sizes");
  }
  const size_t blocks = config.block_out_channels.size();
  if (reader.has("up_block_types")) {
    reader.require("up_block_types", std::vector<std::string>(blocks, "UpDecoderBlock2D"));
  } else if (blocks != 1) {
    reader.refuse(fmt::format(
        "'up_block_types' is missing: its default is one block, block_out_channels has {}",
        blocks));
  }
  if (reader.has("down_block_types")) {
    reader.require("down_block_types", std::vector<std::string>(blocks, "DownEncoderBlock2D"));
  }
  for (const int64_t channels : config.block_out_channels) {
    if (channels % config.norm_num_groups != 0) {
      reader.refuse(
          "block_out_channels", config.block_out_channels,
          fmt::format("expected multiples of norm_num_groups, {}", config.norm_num_groups));
    }
  }
  return config;
}

}  // namespace flux
