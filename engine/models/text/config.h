#pragma once

#include <cstdint>

#include "models/config_reader.h"
#include "ops/ops.h"

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

/// Loads and checks a config: types, ranges and how values fit together. Missing keys take the
/// defaults of the class named above. Throws kInvalidArgument naming the file, the key, the value
/// and what is allowed.
ClipConfig load_clip_config(const ConfigReader& reader);
T5Config load_t5_config(const ConfigReader& reader);

}  // namespace flux
