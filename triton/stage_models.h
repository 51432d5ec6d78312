#pragma once

#include <memory>

#include "triton/served_model.h"

namespace flux::triton {

/// The parameter of dit_transformer that says how many image tokens, the first ones, noise is
/// predicted for.
inline constexpr const char* kPredictedTokens = "predicted_tokens";

/// Loads the served model of each stage. Throw what loading throws, which names file, tensor, found
/// and expected, and kInvalidArgument for a config.pbtxt that cannot work (model_io.h).
std::unique_ptr<const ServedModel> make_clip_model(const ModelSettings& settings);
std::unique_ptr<const ServedModel> make_t5_model(const ModelSettings& settings);
std::unique_ptr<const ServedModel> make_dit_model(const ModelSettings& settings);
std::unique_ptr<const ServedModel> make_vae_encoder_model(const ModelSettings& settings);
std::unique_ptr<const ServedModel> make_vae_decoder_model(const ModelSettings& settings);

}  // namespace flux::triton
