#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "ops/ops.h"

/// The configurations of a diffusers FLUX.1 checkpoint, with the names and defaults of the classes
/// that read them. Each loader checks types, ranges and how values fit together, and throws
/// kInvalidArgument naming the file, the key, the value and what is allowed.
namespace flux {

/// transformers' CLIPTextConfig.
struct ClipConfig {
  int64_t vocab_size = 49408;
  int64_t hidden_size = 512;
  int64_t intermediate_size = 2048;
  int64_t num_hidden_layers = 12;
  int64_t num_attention_heads = 8;
  int64_t max_position_embeddings = 77;
  Activation hidden_act = Activation::kQuickGelu;
  float layer_norm_eps = 1e-5f;
  int64_t eos_token_id = 49407;
};

/// transformers' T5Config, encoder only.
struct T5Config {
  int64_t vocab_size = 32128;
  int64_t d_model = 512;
  int64_t d_kv = 64;
  int64_t d_ff = 2048;
  int64_t num_layers = 6;
  int64_t num_heads = 8;
  int64_t relative_attention_num_buckets = 32;
  int64_t relative_attention_max_distance = 128;
  float layer_norm_epsilon = 1e-6f;
  Activation activation = Activation::kRelu;
  bool gated = false;
};

/// diffusers' FluxTransformer2DModel.
struct TransformerConfig {
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

/// diffusers' AutoencoderKL, decoder only.
struct VaeConfig {
  int64_t out_channels = 3;
  int64_t latent_channels = 4;
  std::vector<int64_t> block_out_channels = {64};
  int64_t layers_per_block = 1;
  int64_t norm_num_groups = 32;
  int64_t sample_size = 32;  // pixels along one side of the pictures it was trained on
  bool mid_block_add_attention = true;
  bool use_post_quant_conv = true;
  float scaling_factor = 0.18215f;
  float shift_factor = 0.0f;

  /// Pixels along one side for each latent.
  int64_t scale_factor() const { return int64_t{1} << (block_out_channels.size() - 1); }
};

/// diffusers' FlowMatchEulerDiscreteScheduler.
struct SchedulerConfig {
  int64_t num_train_timesteps = 1000;
  double shift = 1.0;
  bool use_dynamic_shifting = false;
  double base_shift = 0.5;
  double max_shift = 1.15;
  int64_t base_image_seq_len = 256;
  int64_t max_image_seq_len = 4096;
  enum class TimeShift { kExponential, kLinear } time_shift_type = TimeShift::kExponential;
  std::optional<double> shift_terminal;
};

/// Everything that the pipeline, as opposed to one model, needs to know.
struct FluxConfig {
  ClipConfig clip;
  T5Config t5;
  TransformerConfig transformer;
  VaeConfig vae;
  SchedulerConfig scheduler;

  /// Heights and widths are multiples of this: one latent is scale_factor pixels, a token 2 x 2.
  int64_t size_multiple() const { return 2 * vae.scale_factor(); }
};

ClipConfig load_clip_config(const std::filesystem::path& file);
T5Config load_t5_config(const std::filesystem::path& file);
TransformerConfig load_transformer_config(const std::filesystem::path& file);
VaeConfig load_vae_config(const std::filesystem::path& file);
SchedulerConfig load_scheduler_config(const std::filesystem::path& file);

}  // namespace flux
