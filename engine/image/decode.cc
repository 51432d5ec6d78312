#include "image/decode.h"

#include <algorithm>
#include <optional>

#include "image/decoder.h"
#include "image/image_format.h"
#include "image/orientation.h"
#include "support/base64.h"
#include "support/error.h"
#include "support/foreign_content.h"
#include "tensor/format.h"

namespace flux {
namespace {

using namespace std::string_view_literals;

constexpr std::string_view kExpected = "must be PNG, JPEG or WebP";

std::optional<ImageFormat> format_of_content(std::string_view file) {
  if (file.starts_with("\x89PNG\r\n\x1a\n"sv)) return ImageFormat::kPng;
  if (file.starts_with("\xff\xd8\xff"sv)) return ImageFormat::kJpeg;
  if (file.starts_with("RIFF"sv) && file.substr(0, 12).ends_with("WEBP"sv) && file.size() >= 12) {
    return ImageFormat::kWebp;
  }
  return std::nullopt;
}

/// Other formats that people have: what begins a file, from which byte on, and its name.
struct ForeignFormat {
  size_t at;
  std::string_view magic;
  std::string_view name;
};
constexpr ForeignFormat kForeignFormats[] = {
    {0, "GIF8"sv, "GIF"},
    {0, "BM"sv, "BMP"},
    {0, "II*\0"sv, "TIFF"},
    {0, "MM\0*"sv, "TIFF"},
    {4, "ftypavif"sv, "AVIF"},
    {4, "ftypavis"sv, "AVIF"},
    {4, "ftyphei"sv, "HEIF"},
    {4, "ftypmif1"sv, "HEIF"},
    {0, "\xff\x0a"sv, "JPEG XL"},
    {0, "\0\0\0\x0cJXL "sv, "JPEG XL"},
    {0, "\0\0\0\x0cjP  "sv, "JPEG 2000"},
    {0, "8BPS"sv, "Photoshop"},
    {0, "%PDF"sv, "PDF"},
    {0, "<svg"sv, "SVG"},
};

[[noreturn]] void fail_format(std::string_view file, const std::string& what) {
  check(!file.empty(), ErrorCode::kInvalidArgument, "{}: is empty: {}", what, kExpected);
  for (const ForeignFormat& foreign : kForeignFormats) {
    check(!file.substr(std::min(foreign.at, file.size())).starts_with(foreign.magic),
          ErrorCode::kInvalidArgument, "{}: its format is {}: {}; convert it", what, foreign.name,
          kExpected);
  }
  const std::string_view foreign = foreign_content(file.substr(0, 512));
  check(foreign.empty(), ErrorCode::kInvalidArgument, "{}: {}", what, foreign);
  fail(ErrorCode::kInvalidArgument, "{}: its {} bytes begin as no image that is known: {}", what,
       file.size(), kExpected);
}

DecodedImage decode(ImageFormat format, const DecodeTask& task) {
  switch (format) {
    case ImageFormat::kPng:
      return decode_png(task);
    case ImageFormat::kJpeg:
      return decode_jpeg(task);
    case ImageFormat::kWebp:
      return decode_webp(task);
  }
  fail(ErrorCode::kInternal, "an image format is not known");
}

Tensor decode_upright(const DecodeTask& task) {
  const size_t size = task.file.size();
  check(size <= task.bounds.bytes, ErrorCode::kInvalidArgument,
        "{}: has {} bytes: at most {} are allowed; make it smaller", task.what, size,
        task.bounds.bytes);
  const std::optional<ImageFormat> format = format_of_content(task.file);
  if (!format) fail_format(task.file, task.what);
  const DecodedImage image = decode(*format, task);
  return turn_upright(image.pixels, orientation_of(image.exif, image.xmp));
}

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

}  // namespace

Tensor allocate_pixels(const DecodeTask& task, int64_t height, int64_t width) {
  const ImageBounds& bounds = task.bounds;
  const auto [shorter, longer] = std::minmax(height, width);
  check(shorter >= 1 && longer <= bounds.side, ErrorCode::kInvalidArgument,
        "{}: an image of {}x{} pixels: a side must be 1 to {}; make it smaller", task.what, width,
        height, bounds.side);
  check(height * width <= bounds.pixels, ErrorCode::kInvalidArgument,
        "{}: an image of {}x{} has {} pixels: at most {} are allowed; make it smaller", task.what,
        width, height, height * width, bounds.pixels);
  check(longer <= shorter * bounds.ratio, ErrorCode::kInvalidArgument,
        "{}: an image of {}x{} pixels: the longer side must be at most {} times the shorter one; "
        "crop it",
        task.what, width, height, bounds.ratio);
  return Tensor::allocate({height, width, task.channels}, DType::kU8);
}

void fail_truncated(const DecodeTask& task, const char* format) {
  fail(ErrorCode::kInvalidArgument,
       "{}: the {} file ends within the image, after {} bytes; give the whole file", task.what,
       format, task.file.size());
}

void fail_undecodable(const DecodeTask& task, const char* format, std::string_view message) {
  fail(ErrorCode::kInvalidArgument, "{}: the {} file cannot be decoded ({}); save it again",
       task.what, format, message);
}

Tensor decode_image(std::string_view file, const std::string& what, const ImageBounds& bounds) {
  return decode_upright({file, what, bounds, 3});
}

Tensor decode_image_with_alpha(std::string_view file, const std::string& what,
                               const ImageBounds& bounds) {
  return decode_upright({file, what, bounds, 4});
}

Tensor decode_mask(std::string_view file, const std::string& what, const ImageBounds& bounds) {
  return to_grey(decode_image(file, what, bounds));
}

std::string image_file_of(std::string_view text, const std::string& what,
                          const ImageBounds& bounds) {
  // A text of this many characters may be a file within the bounds, with line breaks in its base64.
  check(text.size() / 2 <= bounds.bytes, ErrorCode::kInvalidArgument,
        "{}: has {} bytes: an image may have {} at most; make it smaller", what, text.size(),
        bounds.bytes);
  if (format_of_content(text)) return std::string(text);
  if (text.starts_with("data:")) {
    const size_t comma = text.substr(0, 256).find(',');
    check(comma != std::string_view::npos && text.substr(0, comma).ends_with(";base64"),
          ErrorCode::kInvalidArgument,
          "{}: is a data URL of another form: must begin with data:image/png;base64, or the like",
          what);
    text.remove_prefix(comma + 1);
  }
  std::string digits;
  digits.reserve(text.size());
  std::copy_if(text.begin(), text.end(), std::back_inserter(digits),
               [](char c) { return !is_space(c); });
  const bool is_text =
      std::all_of(digits.begin(), digits.end(), [](char c) { return c > ' ' && c <= '~'; });
  // Bytes that are no text are a file, and what is wrong with it is told when it is decoded.
  if (!is_text || digits.empty()) return std::string(text);
  return decode_base64(digits, what, "send the bytes of an image or their base64");
}

Tensor to_grey(const ConstTensor& rgb) {
  check(rgb.rank() == 3 && rgb.size(2) == 3 && rgb.dtype() == DType::kU8 && rgb.is_contiguous() &&
            rgb.device().is_cpu(),
        ErrorCode::kInternal, "an image's pixels are {}, u8[height, width, 3] is expected", rgb);
  const Tensor grey = Tensor::allocate({rgb.size(0), rgb.size(1)}, DType::kU8);
  const auto* in = rgb.data<uint8_t>();
  auto* out = grey.data<uint8_t>();
  // ITU-R 601's weights in 16 bits, rounded: Pillow's L24.
  for (int64_t i = 0; i < grey.numel(); ++i, in += 3) {
    out[i] =
        static_cast<uint8_t>((in[0] * 19595u + in[1] * 38470u + in[2] * 7471u + 0x8000u) >> 16);
  }
  return grey;
}

}  // namespace flux
