#include "models/text/config.h"

#include <fmt/format.h>

namespace flux {
namespace {

Activation clip_activation(const ConfigReader& reader) {
  const std::string name = reader.text("hidden_act", "quick_gelu");
  if (name == "quick_gelu") return Activation::kQuickGelu;
  if (name == "gelu") return Activation::kGeluErf;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return Activation::kGeluTanh;
  reader.refuse("hidden_act", name, "expected quick_gelu, gelu, gelu_new or gelu_pytorch_tanh");
}

Activation t5_activation(const ConfigReader& reader, const std::string& name) {
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return Activation::kGeluTanh;
  if (name == "gelu") return Activation::kGeluErf;
  if (name == "relu") return Activation::kRelu;
  if (name == "silu" || name == "swish") return Activation::kSilu;
  reader.refuse("feed_forward_proj", name,
                "expected relu, gelu, gelu_new, silu or one of them after 'gated-'");
}

}  // namespace

ClipConfig load_clip_config(const ConfigReader& whole) {
  // The config of a whole CLIPModel has its text model's under text_config.
  const ConfigReader reader = whole.part("text_config");
  ClipConfig config;
  config.vocab_size = reader.size("vocab_size", config.vocab_size);
  config.hidden_size = reader.size("hidden_size", config.hidden_size);
  config.intermediate_size = reader.size("intermediate_size", config.intermediate_size);
  config.num_hidden_layers = reader.layers("num_hidden_layers", config.num_hidden_layers);
  config.num_attention_heads = reader.size("num_attention_heads", config.num_attention_heads);
  config.max_position_embeddings =
      reader.integer("max_position_embeddings", config.max_position_embeddings, 2, 65536);
  config.hidden_act = clip_activation(reader);
  config.layer_norm_eps = static_cast<float>(reader.number("layer_norm_eps", 1e-5, 0, 1));
  config.eos_token_id = reader.integer("eos_token_id", config.eos_token_id, 0, 1 << 30);
  if (config.hidden_size % config.num_attention_heads != 0) {
    reader.refuse(fmt::format("hidden_size {} is not a multiple of num_attention_heads {}",
                              config.hidden_size, config.num_attention_heads));
  }
  return config;
}

T5Config load_t5_config(const ConfigReader& reader) {
  T5Config config;
  config.vocab_size = reader.size("vocab_size", config.vocab_size);
  config.d_model = reader.size("d_model", config.d_model);
  config.d_kv = reader.size("d_kv", config.d_kv);
  config.d_ff = reader.size("d_ff", config.d_ff);
  config.num_layers = reader.layers("num_layers", config.num_layers);
  config.num_heads = reader.size("num_heads", config.num_heads);
  config.relative_attention_num_buckets = reader.integer(
      "relative_attention_num_buckets", config.relative_attention_num_buckets, 4, 65536);
  config.relative_attention_max_distance = reader.integer(
      "relative_attention_max_distance", config.relative_attention_max_distance, 2, kMaxSize);
  config.layer_norm_epsilon = static_cast<float>(reader.number("layer_norm_epsilon", 1e-6, 0, 1));
  const std::string projection = reader.text("feed_forward_proj", "relu");
  constexpr std::string_view kGated = "gated-";
  config.gated = projection.starts_with(kGated);
  std::string name = config.gated ? projection.substr(kGated.size()) : projection;
  if (projection == "gated-gelu") name = "gelu_new";  // as T5Config reads it
  // Explicit keys override what feed_forward_proj says.
  config.gated = reader.boolean("is_gated_act", config.gated);
  config.activation = t5_activation(reader, reader.text("dense_act_fn", name.c_str()));
  if (config.relative_attention_max_distance <= config.relative_attention_num_buckets / 4) {
    reader.refuse("relative_attention_max_distance", config.relative_attention_max_distance,
                  "expected more than a quarter of relative_attention_num_buckets");
  }
  if (config.num_heads * config.d_kv > kMaxSize) reader.refuse("num_heads x d_kv is too large");
  return config;
}

}  // namespace flux
