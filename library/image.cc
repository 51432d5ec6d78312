#include "flux/flux.h"
#include "image/decode.h"
#include "image/image_format.h"
#include "library/boundary.h"
#include "pipeline/request.h"
#include "support/file.h"
#include "tensor/tensor.h"

namespace flux {

namespace fs = std::filesystem;

namespace {

ConstTensor view_of(int64_t height, int64_t width, const std::vector<uint8_t>& pixels) {
  check(height > 0 && width > 0 && pixels.size() == static_cast<size_t>(height * width * 3),
        ErrorCode::kInvalidArgument,
        "an image of {}x{} has {} bytes of pixels: 3 a pixel are expected", width, height,
        pixels.size());
  return {pixels.data(), DType::kU8, {height, width, 3}};
}

/// Writes the bytes that `encode` gives for the format of the file's name.
void write_file(const fs::path& file, const std::function<std::string(ImageFormat)>& encode) {
  std::error_code ignored;  // who opens the file reports it
  const fs::file_status status = fs::status(file, ignored);
  const bool device = fs::exists(status) && !fs::is_regular_file(status);
  const std::optional<ImageFormat> format = device ? ImageFormat::kPng : format_of_file(file);
  check(format.has_value(), ErrorCode::kInvalidArgument,
        "{}: the name must end in .png, .jpg, .jpeg or .webp", file);
  const std::string bytes = encode(*format);
  AtomicFile written(file);
  written.write(bytes.data(), bytes.size());
  written.commit();
}

}  // namespace

InputImage read_image(const fs::path& file) {
  return with_named_exceptions([&] {
    const std::string bytes = read_file(file, ImageBounds().bytes);
    return to_input_image(decode_image(bytes, file.string()));
  });
}

std::string Image::encode(ImageFormat format) const {
  return with_named_exceptions([&] {
    return encode_image(format, view_of(height, width, pixels), checked_quality(request.quality),
                        texts ? *texts : ImageTexts{});
  });
}

void Image::write(const fs::path& file) const {
  with_named_exceptions(
      [&] { write_file(file, [&](ImageFormat format) { return encode(format); }); });
}

void Preview::write(const fs::path& file) const {
  with_named_exceptions([&] {
    write_file(file, [&](ImageFormat format) {
      return encode_image(format, view_of(height, width, pixels), checked_quality(std::nullopt),
                          ImageTexts{});
    });
  });
}

}  // namespace flux
