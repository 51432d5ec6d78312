#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "pipeline/flux_config.h"
#include "tensor/tensor.h"

namespace flux {

/// One prompt as a user gives it: what is absent takes the model's default. Names and meanings are
/// those of diffusers' FluxPipeline.__call__.
struct ImageRequest {
  std::string prompt;                          // for CLIP, and for T5 unless prompt_2 is given
  std::optional<std::string> prompt_2;         // for T5
  std::optional<std::string> negative_prompt;  // used when true_cfg_scale > 1
  double true_cfg_scale = 1.0;                 // >= 1
  std::optional<int64_t> num_inference_steps;  // 1..1000; 28 with guidance embeddings, else 4
  double guidance_scale = 3.5;    // 0..100; only models with guidance embeddings use it
  std::optional<int64_t> height;  // pixels, a multiple of 2 x the VAE factor
  std::optional<int64_t> width;
  std::optional<int64_t> seed;                 // >= 0; absent: a random one
  int64_t num_images_per_prompt = 1;           // 1..16; image j is drawn from seed + j
  std::optional<int64_t> max_sequence_length;  // 1..512; 512 with guidance embeddings, else 256
};

/// What a deployment allows and assumes where a request is silent.
struct RequestLimits {
  int64_t default_height = 1024;
  int64_t default_width = 1024;
  int64_t max_pixels_per_side = 2048;
  int64_t max_steps = 1000;
  int64_t max_images_per_prompt = 16;
};

/// The limits of a checkpoint: the default size is diffusers' (128 latent rows and columns).
RequestLimits limits_for(const FluxConfig& config);

/// T5 tokens where a request gives no number: 512 with guidance embeddings, else 256.
int64_t default_sequence_length(const FluxConfig& config);

/// A seed for those who give none.
int64_t random_seed();

/// A request whose every value is present and allowed.
struct ImageParams {
  std::string prompt;
  std::string prompt_2;
  std::optional<std::string> negative_prompt;  // present exactly when true CFG is done
  float true_cfg_scale = 1.0f;
  int num_inference_steps = 0;
  float guidance_scale = 0.0f;
  int64_t height = 0;
  int64_t width = 0;
  int64_t seed = 0;
  int num_images_per_prompt = 1;
  int max_sequence_length = 0;
  /// FluxPipeline's `latents`: [num_images_per_prompt, image tokens, channels], host memory of any
  /// floating point dtype, packed, that the loop starts from; where undefined, noise of the seed.
  Tensor latents;
};

/// Checks a request and fills its gaps. Throws kInvalidArgument naming the input, the value found
/// and the allowed range.
ImageParams validate(const ImageRequest& request, const FluxConfig& config,
                     const RequestLimits& limits);

}  // namespace flux
