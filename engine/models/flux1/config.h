#pragma once

#include <cstdint>
#include <vector>

#include "models/config_reader.h"

namespace flux {

/// diffusers' FluxTransformer2DModel.
struct FluxTransformerConfig {
  int64_t in_channels = 64;
  int64_t out_channels = 64;
  int64_t num_layers = 19;         // double-stream blocks
  int64_t num_single_layers = 38;  // single-stream blocks
  int64_t attention_head_dim = 128;
  int64_t num_attention_heads = 24;
  int64_t joint_attention_dim = 4096;
  int64_t pooled_projection_dim = 768;
  bool guidance_embeds = false;
  std::vector<int64_t> axes_dims_rope = {16, 56, 56};

  int64_t inner_dim() const { return num_attention_heads * attention_head_dim; }
};

/// Loads and checks a config: types, ranges and how values fit together. Missing keys take the
/// defaults of the class named above. Throws kInvalidArgument naming the file, the key, the value
/// and what is allowed.
FluxTransformerConfig load_flux_transformer_config(const ConfigReader& reader);

}  // namespace flux
