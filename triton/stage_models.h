#pragma once

#include <memory>

#include "triton/served_model.h"

namespace flux::triton {

/// Loads clip_encoder, t5_encoder, dit_transformer or vae_decoder. Throws kInvalidArgument for
/// another name.
std::unique_ptr<const ServedModel> load_stage_model(const ModelSettings& settings);

}  // namespace flux::triton
