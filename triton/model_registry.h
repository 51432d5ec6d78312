#pragma once

#include <memory>

#include "triton/served_model.h"

namespace flux::triton {

/// Loads the model that `settings` names: bls, clip_encoder, t5_encoder, dit_transformer or
/// vae_decoder. Throws kInvalidArgument for another name, and what loading throws, which names
/// file, tensor, found and expected.
std::unique_ptr<const ServedModel> load_model(const ModelSettings& settings);

}  // namespace flux::triton
