#pragma once

#include <string>
#include <string_view>

#include "tensor/tensor.h"

namespace flux {

/// A baseline JPEG file as bytes. pixels: [height, width, 3], u8, contiguous, on the host. quality:
/// 1 to 100, libjpeg's scale; from 90 on colours keep their full resolution (4:4:4), below they are
/// halved both ways (4:2:0). `comment`, UTF-8: EXIF's UserComment, cut at 30,000 bytes; empty:
/// none. Throws kInternal when libjpeg refuses.
std::string encode_jpeg(const ConstTensor& pixels, int quality, std::string_view comment);

}  // namespace flux
