#include <fmt/ranges.h>

#include <algorithm>

#include "adapters/adapter_file.h"
#include "cli/common.h"
#include "cli/help.h"
#include "cli/inspect_adapter.h"
#include "cli/session.h"
#include "convert/repository_layout.h"
#include "models/vae/vae_encoder.h"
#include "pipeline/request.h"
#include "support/json_file.h"

namespace flux::cli {
namespace {

/// Memory of the program with its libraries, tokenizers and compiled kernels.
constexpr int64_t kProgramBytes = int64_t{64} << 20;

/// The autoencoder's encoder, which only images as input need, or all other weights.
enum class Served { kVaeEncoder, kRest };

/// Bytes of the weights that serving loads; encoded matrices stay as they are stored.
int64_t served_bytes(const Checkpoint& checkpoint, Component component, Served part,
                     int64_t element) {
  const TensorStore& weights = checkpoint.weights(component);
  int64_t bytes = 0;
  for (const std::string& name : weights.names()) {
    const bool encoder = component == Component::kVae && is_of_vae_encoder(name);
    if (encoder != (part == Served::kVaeEncoder)) continue;
    const StoredTensor& tensor = *weights.find(name);
    const bool kept = !tensor.is_plain() && tensor.shape.rank() == 2;
    bytes += kept ? tensor.bytes() : tensor.numel() * element;
  }
  return bytes;
}

/// Memory needed for serving: weights in the compute dtype or as they are stored, and for one image
/// of the default size the largest activations of the two models that grow with it. The latter is
/// an estimate.
struct MemoryNeed {
  int64_t weights = 0;
  int64_t vae_encoder = 0;  // more weights, where images are given; 0: the checkpoint has none
  int64_t activations = 0;
};

MemoryNeed memory_need(const Checkpoint& checkpoint, DType dtype) {
  const auto element = static_cast<int64_t>(size_of(dtype));
  const FluxConfig& config = checkpoint.config();
  const RequestLimits limits = limits_for(config);
  MemoryNeed need;
  for (const Component component : checkpoint.weight_components()) {
    need.weights += served_bytes(checkpoint, component, Served::kRest, element);
  }
  need.vae_encoder = served_bytes(checkpoint, Component::kVae, Served::kVaeEncoder, element);
  // The single blocks hold the tokens, their projections (q, k, v, MLP) and the joined output.
  const int64_t multiple = config.size_multiple();
  const int64_t text_tokens = checked_sequence_length(std::nullopt, config);
  const int64_t tokens =
      limits.default_height / multiple * (limits.default_width / multiple) + text_tokens;
  const int64_t transformer = tokens * config.transformer.inner_dim() * 14 * element;
  // The last block of the decoder holds about three feature maps of the full size, with the
  // channels of the block before.
  const std::vector<int64_t>& channels = config.vae.block_out_channels;
  const int64_t widest = channels.size() > 1 ? std::max(channels[0], channels[1]) : channels[0];
  const int64_t decoder = limits.default_height * limits.default_width * 3 * widest * element;
  need.activations = std::max(transformer, decoder) + kProgramBytes;
  return need;
}

nlohmann::json memory_json(const Checkpoint& checkpoint, DType dtype) {
  const MemoryNeed need = memory_need(checkpoint, dtype);
  return {{"weight_bytes", need.weights},
          {"vae_encoder_bytes", need.vae_encoder},
          {"activation_bytes", need.activations},
          {"total_bytes", need.weights + need.activations}};
}

/// The config of a component that has one, else null.
nlohmann::json config_of(const Checkpoint& checkpoint, Component component) {
  if (info_of(component).config_file.empty()) return nullptr;
  return checkpoint.config_json(component);
}

/// The component of an entry of model_index.json; nothing for one that is not known.
std::optional<Component> component_of(const ModelIndex::Entry& entry) {
  for (const ComponentInfo& info : kComponents) {
    if (entry.name == info.name) return info.component;
  }
  return std::nullopt;
}

/// The types that weights are stored in, those of most parameters first: "Q4_K, Q6_K, f32".
std::string types_in_words(const TensorStore& weights) {
  std::vector<std::string> names;
  for (const auto& [name, count] : weights.types()) names.push_back(name);
  return fmt::format("{}", fmt::join(names, ", "));
}

nlohmann::json inspect_json(const Checkpoint& checkpoint) {
  auto components = nlohmann::json::object();
  for (const ModelIndex::Entry& entry : checkpoint.index().components) {
    const std::optional<Component> component = component_of(entry);
    components[entry.name] = {
        {"library", entry.library},
        {"class", entry.class_name},
        {"config", component ? config_of(checkpoint, *component) : nlohmann::json()}};
    if (component) components[entry.name]["place"] = checkpoint.layout().place(*component).string();
  }
  int64_t parameters = 0;
  int64_t bytes = 0;
  for (const Component component : checkpoint.weight_components()) {
    const TensorStore& weights = checkpoint.weights(component);
    nlohmann::json& object = components[name_of(component)];
    object["dtype"] = name_of(weights.dtype());
    object["layout"] = checkpoint.weight_layout(component);
    for (const auto& [name, count] : weights.types()) object["types"][name] = count;
    object["tensors"] = weights.names().size();
    object["parameters"] = weights.parameter_count();
    object["bytes"] = weights.bytes();
    parameters += weights.parameter_count();
    bytes += weights.bytes();
  }
  const RequestLimits limits = limits_for(checkpoint.config());
  return {{"checkpoint", checkpoint.name()},
          {"directory", checkpoint.source().string()},
          {"dtype", name_of(checkpoint.stored_dtype())},
          {"parameters", parameters},
          {"bytes", bytes},
          {"default_height", limits.default_height},
          {"default_width", limits.default_width},
          {"size_multiple", checkpoint.config().size_multiple()},
          {"components", components},
          {"serving_memory",
           {{"f32", memory_json(checkpoint, DType::kF32)},
            {"bf16", memory_json(checkpoint, DType::kBF16)}}}};
}

std::string describe_config(const FluxConfig& config) {
  const FluxTransformerConfig& dit = config.transformer;
  std::string text = fmt::format(
      "text_encoder    {} layers, {} wide, {} heads, {} tokens, vocabulary {}\n"
      "text_encoder_2  {} layers, {} wide, {} heads x {}, vocabulary {}\n"
      "transformer     {} double and {} single blocks, {} heads x {}, {} channels in, "
      "guidance embeddings: {}\n",
      config.clip.num_hidden_layers, config.clip.hidden_size, config.clip.num_attention_heads,
      config.clip.max_position_embeddings, config.clip.vocab_size, config.t5.num_layers,
      config.t5.d_model, config.t5.num_heads, config.t5.d_kv, config.t5.vocab_size, dit.num_layers,
      dit.num_single_layers, dit.num_attention_heads, dit.attention_head_dim, dit.in_channels,
      dit.guidance_embeds ? "yes" : "no");
  text += fmt::format("vae             channels {}, {} latent channels, {} pixels a latent\n",
                      fmt::join(config.vae.block_out_channels, "-"), config.vae.latent_channels,
                      config.vae.scale_factor());
  const SchedulerConfig& scheduler = config.scheduler;
  text += scheduler.use_dynamic_shifting
              ? fmt::format("scheduler       dynamic shift {} to {}\n", scheduler.base_shift,
                            scheduler.max_shift)
              : fmt::format("scheduler       constant shift {}\n", scheduler.shift);
  return text;
}

std::string inspect_text(const Checkpoint& checkpoint) {
  std::string text = fmt::format("{:<15} {:<32} {:>6} {:>8} {:>14} {:>11}\n", "component", "class",
                                 "dtype", "tensors", "parameters", "bytes");
  const std::vector<Component> components = checkpoint.weight_components();
  for (const ModelIndex::Entry& entry : checkpoint.index().components) {
    text += fmt::format("{:<15} {:<32}", entry.name, entry.class_name);
    const auto found = std::find_if(components.begin(), components.end(), [&](Component candidate) {
      return entry.name == name_of(candidate);
    });
    if (found != components.end()) {
      const TensorStore& weights = checkpoint.weights(*found);
      text += fmt::format(" {:>6} {:>8} {:>14} {:>11}", name_of(weights.dtype()),
                          weights.names().size(), weights.parameter_count(),
                          format_bytes(weights.bytes()));
    }
    text += "\n";
  }
  text += "\n";
  for (const Component component : components) {
    text += fmt::format("{:<15} {} names, {} in {}\n", name_of(component),
                        checkpoint.weight_layout(component),
                        types_in_words(checkpoint.weights(component)),
                        one_line(checkpoint.layout().place(component).string()));
  }
  const RequestLimits limits = limits_for(checkpoint.config());
  text += "\n" + describe_config(checkpoint.config());
  text += fmt::format("\ndefault size {}x{}; serving one image of it needs about\n",
                      limits.default_width, limits.default_height);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const MemoryNeed need = memory_need(checkpoint, dtype);
    text += fmt::format("  {:<5} {:>10} weights + {:>10} activations\n", name_of(dtype),
                        format_bytes(need.weights), format_bytes(need.activations));
  }
  const auto encoder_bytes = [&](DType dtype) {
    return memory_need(checkpoint, dtype).vae_encoder;
  };
  text += encoder_bytes(DType::kF32) == 0
              ? "  and takes no images: the VAE has no encoder\n"
              : fmt::format("  and with images as input {} (f32) or {} (bf16) more weights\n",
                            format_bytes(encoder_bytes(DType::kF32)),
                            format_bytes(encoder_bytes(DType::kBF16)));
  return text;
}

bool has_parts(const PartOptions& parts) {
  return !(parts.transformer.empty() && parts.vae.empty() && parts.clip.empty() &&
           parts.t5.empty() && parts.tokenizers.empty() && parts.variant.empty());
}

void print_adapter(const std::string& file, bool json) {
  const Adapter adapter = open_adapter(file);
  if (json) {
    print_json(adapter_json(adapter));
  } else {
    print_out(adapter_text(adapter));
  }
}

}  // namespace

void add_inspect(CLI::App& app, Action& run) {
  struct Options {
    std::string source;
    PartOptions parts;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "inspect",
      "shows components, classes, sizes, dtypes and the memory that serving needs; of an adapter "
      "(LoRA) what it changes");
  add_source(*command, options->source, options->parts);
  command->add_flag("--json", options->json, "print one JSON object, with all configurations");
  add_examples(*command, {"inspect FLUX.1-dev", "inspect style.safetensors --json"});
  command->callback([options, &run] {
    run = [options] {
      if (!has_parts(options->parts) && is_adapter_file(options->source)) {
        return print_adapter(options->source, options->json);
      }
      const auto checkpoint = open_source(options->source, options->parts);
      if (options->json) {
        print_json(inspect_json(*checkpoint));
      } else {
        print_out(inspect_text(*checkpoint));
      }
    };
  });
}

}  // namespace flux::cli
