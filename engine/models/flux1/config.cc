#include "models/flux1/config.h"

#include <fmt/format.h>

namespace flux {

FluxTransformerConfig load_flux_transformer_config(const ConfigReader& reader) {
  FluxTransformerConfig config;
  reader.require("patch_size", 1);
  config.in_channels = reader.size("in_channels", config.in_channels);
  config.out_channels = reader.size("out_channels", config.in_channels);
  config.num_layers = reader.integer("num_layers", config.num_layers, 0, kMaxLayers);
  config.num_single_layers =
      reader.integer("num_single_layers", config.num_single_layers, 0, kMaxLayers);
  config.attention_head_dim = reader.size("attention_head_dim", config.attention_head_dim);
  config.num_attention_heads = reader.size("num_attention_heads", config.num_attention_heads);
  config.joint_attention_dim = reader.size("joint_attention_dim", config.joint_attention_dim);
  config.pooled_projection_dim = reader.size("pooled_projection_dim", config.pooled_projection_dim);
  config.guidance_embeds = reader.boolean("guidance_embeds", config.guidance_embeds);
  config.axes_dims_rope = reader.sizes("axes_dims_rope", config.axes_dims_rope);
  if (config.in_channels % 4 != 0) {
    reader.refuse("in_channels", config.in_channels,
                  "expected a multiple of 4: a token holds 2 x 2 latents");
  }
  if (config.attention_head_dim > kMaxSize / config.num_attention_heads) {
    reader.refuse("num_attention_heads x attention_head_dim is too large");
  }
  int64_t rotated = 0;
  for (const int64_t dim : config.axes_dims_rope) {
    if (dim % 2 != 0) reader.refuse("axes_dims_rope", config.axes_dims_rope, "expected even sizes");
    rotated += dim;
  }
  if (config.axes_dims_rope.size() != 3 || rotated != config.attention_head_dim) {
    reader.refuse("axes_dims_rope", config.axes_dims_rope,
                  fmt::format("expected 3 sizes that add up to attention_head_dim, {}",
                              config.attention_head_dim));
  }
  return config;
}

}  // namespace flux
