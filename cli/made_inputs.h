#pragma once

#include <cstdint>

#include "pipeline/flux_config.h"
#include "pipeline/stages.h"

namespace flux::cli {

/// The size of an image and of its text.
struct ImageSize {
  int64_t height = 0;  // pixels
  int64_t width = 0;
  int text_tokens = 0;
};

/// `pixels` rounded down to a size that the model supports, at least the smallest.
int64_t allowed_side(int64_t pixels, const FluxConfig& config);

/// A tensor of standard normal numbers, the same in every run.
Tensor made_tensor(const Shape& shape, DType dtype);

/// One row for the transformer, in the middle of the denoising, with memory for the result.
TransformerInput made_transformer_input(const FluxConfig& config, DType dtype,
                                        const ImageSize& size);

/// Latents for the decoder: [latent_channels, rows, columns].
Tensor made_latents(const FluxConfig& config, DType dtype, const ImageSize& size);

}  // namespace flux::cli
