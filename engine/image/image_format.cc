#include "image/image_format.h"

#include "image/jpeg.h"
#include "image/png.h"
#include "image/webp.h"
#include "support/error.h"
#include "support/file.h"
#include "support/utf8.h"
#include "tensor/format.h"

namespace flux {

std::optional<ImageFormat> parse_image_format(std::string_view name) {
  for (const ImageFormatInfo& info : kImageFormats) {
    if (name == info.name) return info.format;
  }
  return std::nullopt;
}

std::optional<ImageFormat> format_of_file(const std::filesystem::path& file) {
  const std::string extension = ending_of(file);
  for (const ImageFormatInfo& info : kImageFormats) {
    for (const std::string_view known : info.extensions) {
      if (!extension.empty() && extension == known) return info.format;
    }
  }
  return std::nullopt;
}

std::string encode_image(ImageFormat format, const ConstTensor& pixels, int quality,
                         const ImageTexts& texts) {
  check(pixels.rank() == 3 && pixels.size(2) == 3 && pixels.dtype() == DType::kU8 &&
            pixels.is_contiguous() && pixels.device().is_cpu(),
        ErrorCode::kInternal, "an image's pixels are {}, u8[height, width, 3] is expected", pixels);
  switch (format) {
    case ImageFormat::kPng: {
      std::vector<ImageText> entries = texts.entries;
      if (!texts.parameters.empty()) entries.push_back({"parameters", texts.parameters});
      return encode_png(pixels, entries);
    }
    case ImageFormat::kJpeg:
      return encode_jpeg(pixels, quality, texts.parameters);
    case ImageFormat::kWebp:
      return encode_webp(pixels, quality, texts.parameters);
  }
  fail(ErrorCode::kInternal, "an image format is not known");
}

}  // namespace flux
