#include "pipeline/weight_layouts.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "models/flux1/names.h"
#include "models/text/names.h"
#include "models/vae/names.h"
#include "support/error.h"
#include "support/file.h"
#include "weights/renamed_store.h"
#include "weights/weight_files.h"

namespace flux {
namespace {

namespace fs = std::filesystem;

/// How a component's tensors may be named in a file.
struct WeightLayout {
  Component component;
  std::string_view name;
  std::string_view anchor;  // a tensor that it always has
  std::span<const std::string_view> prefixes;
  std::span<const NameRow> (*names)();  // null: diffusers' and transformers' own
  int64_t (*levels)(const TensorStore& stored, std::string_view prefix);  // null: none
};

constexpr std::string_view kTransformerPrefixes[] = {"", "model.diffusion_model.",
                                                     "diffusion_model.", "transformer."};
constexpr std::string_view kVaePrefixes[] = {"", "vae.", "first_stage_model."};
constexpr std::string_view kClipPrefixes[] = {
    "",
    "text_encoders.clip_l.transformer.",
    "text_encoders.clip_l.",
    "clip_l.transformer.",
    "clip_l.",
    "transformer.",
    "conditioner.embedders.0.transformer.",
};
constexpr std::string_view kT5Prefixes[] = {
    "",
    "text_encoders.t5xxl.transformer.",
    "text_encoders.t5xxl.",
    "t5xxl.transformer.",
    "t5xxl.",
    "transformer.",
    "conditioner.embedders.1.transformer.",
};

constexpr WeightLayout kLayouts[] = {
    {Component::kTransformer, "diffusers", "x_embedder.weight", kTransformerPrefixes, nullptr,
     nullptr},
    {Component::kTransformer, "Black Forest Labs", "img_in.weight", kTransformerPrefixes,
     bfl_transformer_names, nullptr},
    {Component::kVae, "diffusers", "decoder.mid_block.resnets.0.conv1.weight", kVaePrefixes,
     nullptr, nullptr},
    {Component::kVae, "Black Forest Labs", "decoder.mid.block_1.conv1.weight", kVaePrefixes,
     bfl_vae_names, bfl_vae_levels},
    {Component::kTextEncoder, "transformers", "text_model.embeddings.position_embedding.weight",
     kClipPrefixes, nullptr, nullptr},
    {Component::kTextEncoder, "transformers", "embeddings.position_embedding.weight", kClipPrefixes,
     nullptr, nullptr},
    {Component::kTextEncoder, "llama.cpp", "t.position_embd.weight", kClipPrefixes,
     llama_clip_names, nullptr},
    {Component::kTextEncoder2, "transformers", "encoder.final_layer_norm.weight", kT5Prefixes,
     nullptr, nullptr},
    {Component::kTextEncoder2, "llama.cpp", "enc.output_norm.weight", kT5Prefixes, llama_t5_names,
     nullptr},
};

bool holds(const TensorStore& stored, const std::string& name) {
  return stored.find(name) != nullptr || !stored.why_unreadable(name).empty();
}

/// Tensors that tell whose weights a file holds.
struct Sign {
  std::string_view part;  // of a name
  std::string_view meaning;
};
constexpr Sign kSigns[] = {
    {".quant_state.bitsandbytes", "weights quantised by bitsandbytes"},
    {".qweight", "weights quantised by Nunchaku or another library"},
    {".weight_packed", "weights quantised by compressed-tensors"},
    {"double_stream_modulation_img", "a transformer of FLUX.2"},
    {"distilled_guidance_layer.", "a transformer of Chroma"},
    {"controlnet_blocks.", "a ControlNet, not a model"},
    {"joint_blocks.", "a transformer of Stable Diffusion 3"},
    {"pos_embed.proj.", "a transformer of Stable Diffusion 3"},
    {"txt_norm.weight", "a transformer of Qwen-Image"},
    {"input_blocks.", "a UNet of Stable Diffusion"},
    {"time_embedding.linear_1.", "a UNet of Stable Diffusion"},
    {"lora_A", "a LoRA, not a model"},
    {"lora_down", "a LoRA, not a model"},
    {"lora_up", "a LoRA, not a model"},
};

/// The files of a component's directory by the names that diffusers gives them; a single file of
/// another name where that is all there is.
std::unique_ptr<const WeightFiles> open_directory(const fs::path& directory, std::string_view stem,
                                                  std::string_view variant) {
  std::vector<fs::path> files;
  bool usual = false;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    const std::string ending = ending_of(entry.path());
    if (ending == ".safetensors" || ending == ".sft" || ending == ".gguf") {
      files.push_back(entry.path());
    }
    usual = usual || name.starts_with(stem);
  }
  if (!usual && files.size() == 1) return WeightFiles::open_file(files[0]);
  if (!usual && files.size() > 1) {
    std::sort(files.begin(), files.end());
    fail(
        ErrorCode::kNotFound,
        "{}: holds {} files of weights, {} and {} among them, and none is {}.safetensors; give the "
        "file that is meant",
        directory, files.size(), files[0].filename().string(), files[1].filename().string(), stem);
  }
  return WeightFiles::open(directory, stem, variant);
}

}  // namespace

std::unique_ptr<const TensorStore> open_place(Component component, const fs::path& place,
                                              std::string_view variant) {
  std::error_code error;  // opening says what it is
  if (!fs::is_directory(place, error)) return WeightFiles::open_file(place);
  return open_directory(place, info_of(component).weights_stem, variant);
}

NamedWeights named_weights(Component component, const std::shared_ptr<const TensorStore>& stored,
                           bool has_config) {
  const NamedWeights found = find_weights(component, stored);
  if (found.store != nullptr) return found;
  const std::string_view what = what_weights_are(*stored);
  if (has_config && what.empty()) return {stored, "diffusers"};
  for (const ComponentInfo& other : kComponents) {
    if (!what.empty() || find_weights(other.component, stored).store == nullptr) continue;
    fail(ErrorCode::kInvalidArgument, "{}: holds no '{}', but '{}'; give a file of '{}' there",
         stored->file_of(""), name_of(component), other.name, name_of(component));
  }
  fail(ErrorCode::kInvalidArgument,
       "{}: holds no weights of component '{}' by any name that is known{}{}; give another file",
       stored->file_of(""), name_of(component), what.empty() ? "" : ": it seems to hold ", what);
}

NamedWeights find_weights(Component component, const std::shared_ptr<const TensorStore>& stored) {
  for (const WeightLayout& layout : kLayouts) {
    if (layout.component != component) continue;
    for (const std::string_view prefix : layout.prefixes) {
      if (!holds(*stored, fmt::format("{}{}", prefix, layout.anchor))) continue;
      const std::span<const NameRow> names =
          layout.names == nullptr ? std::span<const NameRow>() : layout.names();
      const int64_t levels = layout.levels == nullptr ? 0 : layout.levels(*stored, prefix);
      NamedWeights found{stored, layout.name};
      if (!prefix.empty() || !names.empty()) {
        found.store = std::make_shared<RenamedStore>(stored, std::string(prefix), names, levels);
      }
      // Others have tensors of the same names, too.
      return what_weights_are(*found.store).empty() ? found : NamedWeights();
    }
  }
  return {};
}

std::string_view what_weights_are(const TensorStore& stored) {
  std::vector<std::string> names = stored.names();
  for (std::string& name : stored.unreadable_names()) names.push_back(std::move(name));
  for (const Sign& sign : kSigns) {
    for (const std::string& name : names) {
      if (name.find(sign.part) != name.npos) return sign.meaning;
    }
  }
  return "";
}

nlohmann::json infer_config(Component component, const TensorStore& weights) {
  switch (component) {
    case Component::kTransformer:
      return infer_transformer_config(weights);
    case Component::kVae:
      return infer_vae_config(weights);
    case Component::kTextEncoder:
      return infer_clip_config(weights);
    case Component::kTextEncoder2:
      return infer_t5_config(weights);
    case Component::kScheduler:
    case Component::kTokenizer:
    case Component::kTokenizer2:
      break;
  }
  fail(ErrorCode::kInternal, "component '{}' has no weights to infer a config from",
       name_of(component));
}

}  // namespace flux
