#pragma once

#include <string>
#include <string_view>

#include "tensor/tensor.h"

namespace flux {

/// A lossy WebP file as bytes. pixels: [height, width, 3], u8, contiguous, on the host, at most
/// 16383 a side. quality: 1 to 100, libwebp's scale. `comment`, UTF-8: EXIF's UserComment; empty:
/// none. Throws kInternal when libwebp refuses.
std::string encode_webp(const ConstTensor& pixels, int quality, std::string_view comment);

}  // namespace flux
