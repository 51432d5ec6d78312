#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "flux/image_format.h"
#include "tensor/tensor.h"

namespace flux {

/// What is known of a kind, in the order of ImageFormat.
struct ImageFormatInfo {
  ImageFormat format;
  std::string_view name;           // "jpeg": in requests
  std::string_view extensions[2];  // of file names; the second may be empty
};
inline constexpr ImageFormatInfo kImageFormats[] = {
    {ImageFormat::kPng, "png", {".png", ""}},
    {ImageFormat::kJpeg, "jpeg", {".jpg", ".jpeg"}},
    {ImageFormat::kWebp, "webp", {".webp", ""}},
};

/// The format of a name as requests have it; nothing for another name.
std::optional<ImageFormat> parse_image_format(std::string_view name);

/// One setting of an image. `key`: 1 to 79 characters of ASCII; `text`: UTF-8.
struct ImageText {
  std::string key;
  std::string text;
};

/// What an image file says of its making. A PNG file carries `entries`, and `parameters` as one
/// more of them; JPEG and WebP files carry `parameters` as EXIF's UserComment.
struct ImageTexts {
  std::vector<ImageText> entries;
  /// One text of all settings, in the form that AUTOMATIC1111's web UI writes and readers of
  /// metadata know.
  std::string parameters;
};

/// An image file as bytes; the same for the same arguments. pixels: [height, width, 3], u8,
/// contiguous, on the host. quality: 1 to 100, of JPEG and WebP. Throws kInternal when the format's
/// library refuses.
std::string encode_image(ImageFormat format, const ConstTensor& pixels, int quality,
                         const ImageTexts& texts);

}  // namespace flux
