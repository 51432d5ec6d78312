#include "models/config.h"

#include <cmath>
#include <limits>

#include "support/error.h"
#include "support/json_file.h"

namespace flux {
namespace {

using Json = nlohmann::json;

/// Bound on every width and count: far above any published model, far below overflow.
constexpr int64_t kMaxSize = 1 << 20;
constexpr int64_t kMaxLayers = 1024;

/// Typed, bounded access to a config file. A missing key or null takes the default.
class ConfigReader {
 public:
  explicit ConfigReader(const std::filesystem::path& file)
      : file_(file.string()), json_(read_json_file(file)) {
    check(json_.is_object(), ErrorCode::kInvalidArgument, "{}: not a JSON object", file_);
  }

  int64_t integer(const char* key, int64_t fallback, int64_t low, int64_t high) const {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_number_integer() ||
        (value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(high))) {
      refuse(key, *value, fmt::format("expected an integer from {} to {}", low, high));
    }
    const auto number = value->get<int64_t>();
    if (number < low || number > high) {
      refuse(key, *value, fmt::format("expected an integer from {} to {}", low, high));
    }
    return number;
  }

  int64_t size(const char* key, int64_t fallback) const {
    return integer(key, fallback, 1, kMaxSize);
  }
  int64_t layers(const char* key, int64_t fallback) const {
    return integer(key, fallback, 1, kMaxLayers);
  }

  double number(const char* key, double fallback, double low, double high) const {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    const double result = value->is_number() ? value->get<double>() : std::nan("");
    if (!(result >= low && result <= high)) {
      refuse(key, *value, fmt::format("expected a number from {} to {}", low, high));
    }
    return result;
  }

  bool boolean(const char* key, bool fallback) const {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) refuse(key, *value, "expected true or false");
    return value->get<bool>();
  }

  std::string text(const char* key, const char* fallback) const {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_string()) refuse(key, *value, "expected a text");
    return value->get<std::string>();
  }

  bool is_list(const char* key) const {
    const Json* value = find(key);
    return value != nullptr && value->is_array();
  }

  std::vector<int64_t> sizes(const char* key, const std::vector<int64_t>& fallback) const {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    constexpr size_t kMaxCount = 16;
    const char* wanted = "expected a list of 1 to 16 sizes from 1 to 1048576";
    if (!value->is_array() || value->empty() || value->size() > kMaxCount) {
      refuse(key, *value, wanted);
    }
    std::vector<int64_t> result;
    for (const Json& entry : *value) {
      const bool fits = entry.is_number_unsigned() && entry.get<uint64_t>() >= 1 &&
                        entry.get<uint64_t>() <= static_cast<uint64_t>(kMaxSize);
      if (!fits) refuse(key, *value, wanted);
      result.push_back(entry.get<int64_t>());
    }
    return result;
  }

  /// Refuses a setting that changes the picture and that this program does not implement.
  void require(const char* key, const Json& expected) const {
    const Json* value = find(key);
    if (value != nullptr && *value != expected) {
      refuse(key, *value, fmt::format("only {} is supported", expected.dump()));
    }
  }

  bool has(const char* key) const { return find(key) != nullptr; }

  [[noreturn]] void refuse(const char* key, const Json& value, const std::string& why) const {
    fail(ErrorCode::kInvalidArgument, "{}: '{}' is {}: {}", file_, key, value.dump(), why);
  }
  [[noreturn]] void refuse(const std::string& why) const {
    fail(ErrorCode::kInvalidArgument, "{}: {}", file_, why);
  }

 private:
  const Json* find(const char* key) const {
    const auto entry = json_.find(key);
    return entry == json_.end() || entry->is_null() ? nullptr : &*entry;
  }

  std::string file_;
  Json json_;
};

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

ClipConfig load_clip_config(const std::filesystem::path& file) {
  const ConfigReader reader(file);
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

T5Config load_t5_config(const std::filesystem::path& file) {
  const ConfigReader reader(file);
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

TransformerConfig load_transformer_config(const std::filesystem::path& file) {
  const ConfigReader reader(file);
  TransformerConfig config;
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
  if (config.out_channels != config.in_channels) {
    reader.refuse("out_channels", config.out_channels,
                  fmt::format("text to image needs in_channels, {}", config.in_channels));
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

VaeConfig load_vae_config(const std::filesystem::path& file) {
  const ConfigReader reader(file);
  VaeConfig config;
  reader.require("act_fn", "silu");
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
  for (const int64_t channels : config.block_out_channels) {
    if (channels % config.norm_num_groups != 0) {
      reader.refuse(
          "block_out_channels", config.block_out_channels,
          fmt::format("expected multiples of norm_num_groups, {}", config.norm_num_groups));
    }
  }
  return config;
}

SchedulerConfig load_scheduler_config(const std::filesystem::path& file) {
  const ConfigReader reader(file);
  SchedulerConfig config;
  for (const char* key : {"invert_sigmas", "use_karras_sigmas", "use_exponential_sigmas",
                          "use_beta_sigmas", "stochastic_sampling"}) {
    reader.require(key, false);
  }
  config.num_train_timesteps = reader.integer("num_train_timesteps", 1000, 1, kMaxSize);
  config.shift = reader.number("shift", config.shift, 1e-6, 1e6);
  config.use_dynamic_shifting = reader.boolean("use_dynamic_shifting", false);
  config.base_shift = reader.number("base_shift", config.base_shift, -100, 100);
  config.max_shift = reader.number("max_shift", config.max_shift, -100, 100);
  config.base_image_seq_len = reader.integer("base_image_seq_len", 256, 1, int64_t{1} << 31);
  config.max_image_seq_len = reader.integer("max_image_seq_len", 4096, 1, int64_t{1} << 31);
  const std::string kind = reader.text("time_shift_type", "exponential");
  if (kind != "exponential" && kind != "linear") {
    reader.refuse("time_shift_type", kind, "expected exponential or linear");
  }
  config.time_shift_type = kind == "linear" ? SchedulerConfig::TimeShift::kLinear
                                            : SchedulerConfig::TimeShift::kExponential;
  const double terminal = reader.number("shift_terminal", 0, 0, 0.999999);
  if (terminal != 0) config.shift_terminal = terminal;
  if (config.base_image_seq_len == config.max_image_seq_len) {
    reader.refuse("max_image_seq_len", config.max_image_seq_len,
                  "expected another value than base_image_seq_len");
  }
  return config;
}

}  // namespace flux
