#pragma once

#include <nlohmann/json.hpp>
#include <span>

#include "weights/renamed_store.h"

namespace flux {

/// The names that Black Forest Labs give the tensors of FLUX.1's transformer, and everything that
/// took them over: single files, ComfyUI's, GGUF.
std::span<const NameRow> bfl_transformer_names();

/// The config.json of a transformer from the shapes of its tensors, which have diffusers' names.
/// Throws kNotFound for a tensor that tells a size and is missing, kInvalidArgument for shapes that
/// are none of FLUX.1's; `file` is for messages.
nlohmann::json infer_transformer_config(const TensorStore& store);

/// The scheduler_config.json of FLUX.1-dev for models with guidance embeddings, else of
/// FLUX.1-schnell.
nlohmann::json scheduler_config_for(bool guidance_embeds);

}  // namespace flux
