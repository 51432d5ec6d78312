#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tensor/tensor.h"

namespace flux {

/// One text entry of a PNG file. `key`: 1 to 79 characters of ASCII; `text`: UTF-8.
struct PngText {
  std::string key;
  std::string text;
};

/// A PNG file as bytes. pixels: [height, width, 3], u8, contiguous, on the host. Texts that Latin-1
/// can hold become tEXt chunks, others iTXt. Throws kInternal when libpng refuses.
std::string encode_png(const ConstTensor& pixels, const std::vector<PngText>& texts);

}  // namespace flux
