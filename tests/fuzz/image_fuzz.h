#pragma once

#include <string>

#include "fuzz/tokenizer_fuzz.h"
#include "image/decode.h"

namespace flux::fuzz {

/// Decodes a file in each way: the same colours, or an error of one line.
inline void decode_all(const std::string& file) {
  const ImageBounds bounds{.pixels = 1 << 16, .side = 4096};
  try {
    const Tensor rgb = decode_image(file, "it", bounds);
    const Tensor rgba = decode_image_with_alpha(file, "it", bounds);
    const Tensor grey = decode_mask(file, "it", bounds);
    if (rgb.numel() > 3 * bounds.pixels || rgba.numel() != 4 * grey.numel()) std::abort();
    const auto* a = rgb.data<uint8_t>();
    const auto* b = rgba.data<uint8_t>();
    for (int64_t i = 0; i < grey.numel(); ++i, a += 3, b += 4) {
      if (a[0] != b[0] || a[1] != b[1] || a[2] != b[2]) std::abort();
    }
  } catch (const Error& error) {
    const std::string_view line = error.what();
    if (error.code() != ErrorCode::kInvalidArgument || !line.starts_with("it: ") ||
        line.find('\n') != std::string_view::npos) {
      std::abort();
    }
  }
}

}  // namespace flux::fuzz
