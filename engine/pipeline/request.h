#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "flux/request.h"
#include "pipeline/flux_config.h"
#include "tensor/tensor.h"

namespace flux {

/// T5 tokens of a prompt at most.
inline constexpr int64_t kMaxSequenceLength = 512;

/// The limits of a deployment, and its defaults for a silent request.
struct RequestLimits {
  int64_t default_height = 1024;
  int64_t default_width = 1024;
  int64_t max_pixels_per_side = 2048;
  int64_t max_steps = 1000;
  int64_t max_images_per_prompt = 16;
};

/// The limits of a checkpoint: the default size is its own, else diffusers' (128 latent rows and
/// columns).
RequestLimits limits_for(const FluxConfig& config);

/// T5 tokens: the number given, or the default of the model's kind. Throws as validate() does.
int checked_sequence_length(const std::optional<int64_t>& given, const FluxConfig& config);

/// The quality of a JPEG or WebP file: the number given, or the default. Throws as validate() does.
int checked_quality(const std::optional<int64_t>& given);

/// A seed for a request without one.
int64_t random_seed();

/// A request whose every value is present and allowed.
struct ImageParams {
  std::string prompt;
  std::string prompt_2;
  std::optional<std::string> negative_prompt;  // present exactly when true CFG is done
  float true_cfg_scale = 1.0f;
  int num_inference_steps = 0;
  float guidance_scale = 0.0f;
  int height = 0;
  int width = 0;
  int64_t seed = 0;
  int num_images_per_prompt = 1;
  int max_sequence_length = 0;
  int quality = 0;  // of a JPEG or WebP file
  /// FluxPipeline's `latents`, which the loop starts from: [num_images_per_prompt, image tokens,
  /// channels], packed, host memory of any floating point dtype. Undefined: noise of the seed.
  ConstTensor latents;
};

/// Checks a request and fills its gaps. Throws kInvalidArgument naming the input, the value found
/// and the allowed range.
ImageParams validate(const Request& request, const FluxConfig& config, const RequestLimits& limits);

/// The request that validate() makes `params` of, with nothing left to a default.
Request to_request(const ImageParams& params);

}  // namespace flux
