#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace flux {

// What pipelines make of a request's image and mask before they use them. Source: diffusers'
// VaeImageProcessor.preprocess, as FluxInpaintPipeline sets its two processors up. Pixels: u8,
// contiguous, on the host. `threads`: at most so many; the result does not depend on them. Both
// throw as resize_lanczos().

/// An image for the VAE: resized to height x width by Lanczos's filter, then moved to [-1, 1].
/// pixels: [rows, columns, 3] -> [3, height, width], f32.
Tensor preprocess_image(const ConstTensor& pixels, int64_t height, int64_t width, int threads);

/// A mask: resized in the same way, then made grey, then 1 from 128 on and 0 below. pixels: [rows,
/// columns] or [rows, columns, 3] -> [1, height, width], f32. resize_nearest() takes it to the size
/// of the latents.
Tensor preprocess_mask(const ConstTensor& pixels, int64_t height, int64_t width, int threads);

}  // namespace flux
