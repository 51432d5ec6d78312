#pragma once

#include <string>
#include <vector>

#include "image/image_format.h"
#include "tensor/tensor.h"

namespace flux {

/// A PNG file as bytes. pixels: [height, width, 3], u8, contiguous, on the host. Texts that Latin-1
/// can hold become tEXt chunks, others iTXt. Throws kInternal when libpng refuses.
std::string encode_png(const ConstTensor& pixels, const std::vector<ImageText>& texts);

}  // namespace flux
