#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

#include "pipeline/stage_kind.h"

namespace flux {

/// A part of a diffusers checkpoint: an entry of model_index.json with a directory of its own.
enum class Component {
  kScheduler,
  kTextEncoder,
  kTextEncoder2,
  kTokenizer,
  kTokenizer2,
  kTransformer,
  kVae,
};

/// All that the program knows of a component beside its model. The one table of components: a new
/// one is a row here.
struct ComponentInfo {
  Component component;
  std::string_view name;           // in model_index.json, and the directory's
  std::string_view classes[2];     // that it may have; the second may be empty
  std::string_view config_file;    // empty where the component has none
  std::string_view weights_stem;   // of its safetensors files; empty where it has no weights
  std::optional<StageKind> stage;  // that needs it; the pipeline itself where there is none
};

inline constexpr ComponentInfo kComponents[] = {
    {Component::kScheduler,
     "scheduler",
     {"FlowMatchEulerDiscreteScheduler"},
     "scheduler_config.json",
     "",
     std::nullopt},
    {Component::kTextEncoder,
     "text_encoder",
     {"CLIPTextModel"},
     "config.json",
     "model",
     StageKind::kClipEncoder},
    {Component::kTextEncoder2,
     "text_encoder_2",
     {"T5EncoderModel"},
     "config.json",
     "model",
     StageKind::kT5Encoder},
    {Component::kTokenizer,
     "tokenizer",
     {"CLIPTokenizer", "CLIPTokenizerFast"},
     "",
     "",
     StageKind::kClipEncoder},
    {Component::kTokenizer2,
     "tokenizer_2",
     {"T5TokenizerFast", "T5Tokenizer"},
     "",
     "",
     StageKind::kT5Encoder},
    {Component::kTransformer,
     "transformer",
     {"FluxTransformer2DModel"},
     "config.json",
     "diffusion_pytorch_model",
     StageKind::kDitTransformer},
    {Component::kVae,
     "vae",
     {"AutoencoderKL"},
     "config.json",
     "diffusion_pytorch_model",
     StageKind::kVaeDecoder},
};

constexpr const ComponentInfo& info_of(Component component) {
  return kComponents[static_cast<size_t>(component)];
}
constexpr std::string_view name_of(Component component) { return info_of(component).name; }

static_assert(
    [] {
      size_t index = 0;
      for (const ComponentInfo& info : kComponents) {
        if (static_cast<size_t>(info.component) != index++) return false;
      }
      return true;
    }(),
    "kComponents is in the order of Component");

}  // namespace flux
