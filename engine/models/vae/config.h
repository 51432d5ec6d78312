#pragma once

#include <cstdint>
#include <vector>

#include "models/config_reader.h"

namespace flux {

/// diffusers' AutoencoderKL.
struct VaeConfig {
  int64_t in_channels = 3;
  int64_t out_channels = 3;
  int64_t latent_channels = 4;
  std::vector<int64_t> block_out_channels = {64};
  int64_t layers_per_block = 1;
  int64_t norm_num_groups = 32;
  int64_t sample_size = 32;  // pixels along one side of the images it was trained on
  bool mid_block_add_attention = true;
  bool use_quant_conv = true;
  bool use_post_quant_conv = true;
  float scaling_factor = 0.18215f;
  float shift_factor = 0.0f;

  /// Pixels along one side for each latent.
  int64_t scale_factor() const { return int64_t{1} << (block_out_channels.size() - 1); }
};

/// Loads and checks a config: types, ranges and how values fit together. Missing keys take the
/// defaults of the class named above. Throws kInvalidArgument naming the file, the key, the value
/// and what is allowed.
VaeConfig load_vae_config(const ConfigReader& reader);

}  // namespace flux
