#pragma once

#include <string>
#include <string_view>

#include "image/decode.h"
#include "tensor/tensor.h"

/// What decode.h asks the decoders of the formats for. Each file has the magic number of its
/// format.
namespace flux {

struct DecodeTask {
  std::string_view file;
  const std::string& what;  // how errors name the image
  const ImageBounds& bounds;
  int channels;  // 3: RGB, 4: RGBA
};

struct DecodedImage {
  Tensor pixels;     // [height, width, channels], u8, as stored: not yet turned upright
  std::string exif;  // a TIFF file that may have "Exif\0\0" before it; empty: none
  std::string xmp;   // XML; empty: none
};

DecodedImage decode_png(const DecodeTask& task);
DecodedImage decode_jpeg(const DecodeTask& task);
DecodedImage decode_webp(const DecodeTask& task);

/// Refuses a size that is out of the bounds, and makes room for the pixels of one that is not.
Tensor allocate_pixels(const DecodeTask& task, int64_t height, int64_t width);

/// Throws that the file ends too early.
[[noreturn]] void fail_truncated(const DecodeTask& task, const char* format);

/// Throws that the file is damaged or of a kind that nobody writes, in the words of its library.
[[noreturn]] void fail_undecodable(const DecodeTask& task, const char* format,
                                   std::string_view message);

}  // namespace flux
