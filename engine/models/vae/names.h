#pragma once

#include <nlohmann/json.hpp>
#include <span>

#include "weights/renamed_store.h"

namespace flux {

/// The names of the autoencoder in Black Forest Labs' ae.safetensors. Its decoder counts levels
/// from the output: "%" of RenamedStore.
std::span<const NameRow> bfl_vae_names();

/// The levels of an autoencoder with those names under `prefix`.
int64_t bfl_vae_levels(const TensorStore& store, std::string_view prefix);

/// The config.json of an autoencoder of FLUX.1 from the shapes of its tensors, which have
/// diffusers' names. Throws as infer_transformer_config().
nlohmann::json infer_vae_config(const TensorStore& store);

}  // namespace flux
