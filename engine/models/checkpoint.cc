#include "models/checkpoint.h"

#include <algorithm>

#include "support/error.h"
#include "support/json_file.h"

namespace flux {
namespace {

namespace fs = std::filesystem;

/// A component that text to image needs, and the classes it may have.
struct Required {
  std::string_view name;
  std::vector<std::string_view> classes;
};

const std::vector<Required>& required_components() {
  static const std::vector<Required> kRequired = {
      {"scheduler", {"FlowMatchEulerDiscreteScheduler"}},
      {"text_encoder", {"CLIPTextModel"}},
      {"text_encoder_2", {"T5EncoderModel"}},
      {"tokenizer", {"CLIPTokenizer", "CLIPTokenizerFast"}},
      {"tokenizer_2", {"T5TokenizerFast", "T5Tokenizer"}},
      {"transformer", {"FluxTransformer2DModel"}},
      {"vae", {"AutoencoderKL"}},
  };
  return kRequired;
}

std::string list(const std::vector<std::string_view>& names) {
  return fmt::format("{}", fmt::join(names, " or "));
}

std::vector<Checkpoint::Component> read_model_index(const fs::path& file) {
  const nlohmann::json index = read_json_file(file);
  const auto pipeline = index.is_object() ? index.find("_class_name") : index.end();
  check(pipeline != index.end() && pipeline->is_string(), ErrorCode::kInvalidArgument,
        "{}: no '_class_name'; a diffusers checkpoint of FluxPipeline is expected", file.string());
  check(*pipeline == "FluxPipeline", ErrorCode::kInvalidArgument,
        "{}: pipeline class is {}, expected FluxPipeline (FLUX.1 text to image)", file.string(),
        pipeline->dump());
  std::vector<Checkpoint::Component> components;
  for (const auto& [name, entry] : index.items()) {
    if (name.starts_with("_") || !entry.is_array()) continue;
    const bool pair = entry.size() == 2 && entry[0].is_string() && entry[1].is_string();
    if (!pair) continue;  // [null, null]: an optional part that is not there
    components.push_back({name, entry[0].get<std::string>(), entry[1].get<std::string>()});
  }
  return components;
}

void check_components(const ModelLayout& layout,
                      const std::vector<Checkpoint::Component>& components) {
  const std::string index = layout.model_index().string();
  for (const Required& required : required_components()) {
    const auto found = std::find_if(components.begin(), components.end(),
                                    [&](const auto& c) { return c.name == required.name; });
    check(found != components.end(), ErrorCode::kNotFound,
          "{}: component '{}' is missing, expected {}", index, required.name,
          list(required.classes));
    const bool known = std::find(required.classes.begin(), required.classes.end(),
                                 found->class_name) != required.classes.end();
    check(known, ErrorCode::kInvalidArgument, "{}: component '{}' has class '{}', expected {}",
          index, required.name, found->class_name, list(required.classes));
    const fs::path directory = layout.component(std::string(required.name));
    check(fs::is_directory(directory), ErrorCode::kNotFound,
          "{}: directory of component '{}' is missing", directory.string(), required.name);
  }
}

/// The parts must fit one another before any weight is bound.
void check_fit(const ModelLayout& layout, const FluxConfig& config) {
  const auto expect = [&](const char* part, const char* key, int64_t found, int64_t wanted,
                          const char* because) {
    check(found == wanted, ErrorCode::kInvalidArgument,
          "{}: '{}' is {}, expected {}, which is {}; the parts are of different models",
          (layout.config(part) / "config.json").string(), key, found, wanted, because);
  };
  expect("transformer", "pooled_projection_dim", config.transformer.pooled_projection_dim,
         config.clip.hidden_size, "text_encoder's hidden_size");
  expect("transformer", "joint_attention_dim", config.transformer.joint_attention_dim,
         config.t5.d_model, "text_encoder_2's d_model");
  expect("transformer", "in_channels", config.transformer.in_channels,
         4 * config.vae.latent_channels, "4 x vae's latent_channels");
}

/// The served model that holds a component of the checkpoint.
std::string_view model_of(std::string_view component) {
  if (component == "text_encoder" || component == "tokenizer") return "clip_encoder";
  if (component == "text_encoder_2" || component == "tokenizer_2") return "t5_encoder";
  if (component == "transformer") return "dit_transformer";
  if (component == "vae") return "vae_decoder";
  return "bls";
}

}  // namespace

ModelLayout::ModelLayout(const fs::path& directory) {
  check(fs::is_directory(directory), ErrorCode::kNotFound,
        "{}: no such directory; give the directory of a diffusers FLUX.1 checkpoint or of a model "
        "repository made from one",
        directory.string());
  root_ = directory;
  repository_ = fs::exists(directory / "bls" / "1" / "model_index.json");
  configs_ = repository_ ? directory / "bls" / "1" : directory;
}

fs::path ModelLayout::component(const std::string& name) const {
  return repository_ ? root_ / model_of(name) / "1" / name : root_ / name;
}

fs::path ModelLayout::config(const std::string& name) const { return configs_ / name; }

FluxConfig load_flux_config(const ModelLayout& layout) {
  FluxConfig config;
  config.clip = load_clip_config(layout.config("text_encoder") / "config.json");
  config.t5 = load_t5_config(layout.config("text_encoder_2") / "config.json");
  config.transformer = load_transformer_config(layout.config("transformer") / "config.json");
  config.vae = load_vae_config(layout.config("vae") / "config.json");
  config.scheduler = load_scheduler_config(layout.config("scheduler") / "scheduler_config.json");
  check_fit(layout, config);
  return config;
}

std::shared_ptr<const Checkpoint> Checkpoint::open(const fs::path& directory) {
  // Kept absolute, and without a trailing slash so that name() is its last part.
  const fs::path absolute = fs::absolute(directory).lexically_normal();
  const fs::path root = absolute.has_filename() ? absolute : absolute.parent_path();
  const auto checkpoint = std::make_shared<Checkpoint>();
  checkpoint->directory_ = root;
  checkpoint->layout_ = std::make_unique<ModelLayout>(root);
  const ModelLayout& layout = *checkpoint->layout_;
  checkpoint->components_ = read_model_index(layout.model_index());
  check_components(layout, checkpoint->components_);
  checkpoint->config_ = load_flux_config(layout);
  const auto open_weights = [&](const char* component, const char* stem) {
    return WeightFiles::open(layout.component(component), stem);
  };
  checkpoint->text_encoder_ = open_weights("text_encoder", "model");
  checkpoint->text_encoder_2_ = open_weights("text_encoder_2", "model");
  checkpoint->transformer_ = open_weights("transformer", "diffusion_pytorch_model");
  checkpoint->vae_ = open_weights("vae", "diffusion_pytorch_model");
  return checkpoint;
}

std::string Checkpoint::name() const { return directory_.filename().string(); }

DType Checkpoint::stored_dtype() const { return transformer_->dtype(); }

}  // namespace flux
