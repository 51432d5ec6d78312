#pragma once

#include <nlohmann/json.hpp>
#include <span>

#include "weights/renamed_store.h"

namespace flux {

/// llama.cpp's names of a T5 encoder and of CLIP's text encoder, in GGUF files.
std::span<const NameRow> llama_t5_names();
std::span<const NameRow> llama_clip_names();

/// The config.json of a text encoder from the shapes of its tensors, which have transformers'
/// names. What no shape tells is that of FLUX.1's: CLIP's heads of 64, T5's activation. Throws as
/// infer_transformer_config().
nlohmann::json infer_clip_config(const TensorStore& store);
nlohmann::json infer_t5_config(const TensorStore& store);

}  // namespace flux
