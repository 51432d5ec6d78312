#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "flux/request.h"
#include "layers/adapters.h"
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

/// Checks a text of a request, which errors call `name`. Throws as validate() does.
void check_text(std::string_view name, const std::string& text, bool may_be_blank);

/// T5 tokens: the number given, or the default of the model's kind. Throws as validate() does.
int checked_sequence_length(const std::optional<int64_t>& given, const FluxConfig& config);

/// The quality of a JPEG or WebP file: the number given, or the default. Throws as validate() does.
int checked_quality(const std::optional<int64_t>& given);

/// The adapters of a request. Throws as validate() does.
std::vector<AdapterChoice> checked_adapters(const std::vector<AdapterFile>& given);

/// Checks that an image, which errors call `name`, is within ImageBounds. Throws as validate()
/// does.
void check_image_bounds(std::string_view name, const ImageSize& size);

/// The pixels of a request's image or mask, which errors call `name`: u8, [height, width, 3], or
/// [height, width] where `least_channels` is 1, as for masks; sharing the request's memory while
/// that lives; undefined where none are given. Throws as validate() does.
ConstTensor checked_pixels(std::string_view name, const InputImage& given, int64_t least_channels);

/// A seed for a request without one.
int64_t random_seed();

/// The image that a tensor on the host holds: u8, [height, width, 3] or [height, width]. Copies it.
InputImage to_input_image(const ConstTensor& pixels);

/// What errors call a request's image and mask.
struct ImageNames {
  std::string_view image = "image";
  std::string_view mask = "mask";
};

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
  std::vector<AdapterChoice> adapters;
  /// FluxPipeline's `latents`, which the loop starts from: [num_images_per_prompt, image tokens,
  /// channels], packed, host memory of any floating point dtype. Undefined: noise of the seed.
  ConstTensor latents;
  /// What the loop starts from: FluxImg2ImgPipeline's `image`.
  InputImage image;
  /// What is generated anew: FluxInpaintPipeline's `mask_image`.
  InputImage mask;
  std::optional<double> strength;  // present exactly when there is an image, and the kind has one
  std::optional<ImageSize> asked;  // what the request says, where the kind draws another size

  /// Denoising steps that are done: fewer than num_inference_steps where strength is below 1.
  int denoising_steps() const;
  /// The seed of the row's image `j`; torch's seeds are unsigned.
  uint64_t seed_of(int j) const { return static_cast<uint64_t>(seed) + static_cast<uint64_t>(j); }
};

/// Checks a request and fills its gaps. What has no effect is a warning, and gets its default.
/// Throws kInvalidArgument naming the input, the value found and the allowed range.
ImageParams validate(const Request& request, const FluxConfig& config, const RequestLimits& limits,
                     const ImageNames& names = {});

/// The request that validate() makes `params` of, with nothing left to a default.
Request to_request(const ImageParams& params);

}  // namespace flux
