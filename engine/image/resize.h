#pragma once

#include <cstdint>
#include <optional>

#include "tensor/tensor.h"

namespace flux {

/// A part of an image, in pixels from its left and upper edge; it may begin and end within a pixel.
struct ImageBox {
  float left = 0;
  float top = 0;
  float right = 0;
  float bottom = 0;
};

/// Resizes `box` of an image, or all of it, to height x width pixels, each at least 1: the bytes of
/// Pillow 13's Image.resize((width, height), LANCZOS, box) of an image in RGB or L. image: [height,
/// width, 3] or [height, width], u8, contiguous, on the host; the result has its rank. `threads`:
/// at most so many; the result does not depend on them. Throws kInvalidArgument for a size below 1
/// and a box that is not within the image.
Tensor resize_lanczos(const ConstTensor& image, int64_t height, int64_t width, int threads,
                      const std::optional<ImageBox>& box = std::nullopt);

/// The nearest values, rounded down: torch.nn.functional.interpolate(values, (height, width)).
/// values: [..., rows, columns], contiguous, on the host, of any dtype.
Tensor resize_nearest(const ConstTensor& values, int64_t height, int64_t width);

}  // namespace flux
