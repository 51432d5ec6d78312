#include "flux/flux.h"
#include "image/image_format.h"
#include "library/boundary.h"
#include "pipeline/request.h"
#include "support/file.h"
#include "tensor/tensor.h"

namespace flux {

namespace fs = std::filesystem;

std::string Image::encode(ImageFormat format) const {
  return with_named_exceptions([&] {
    check(height > 0 && width > 0 && pixels.size() == static_cast<size_t>(height * width * 3),
          ErrorCode::kInvalidArgument,
          "an image of {}x{} has {} bytes of pixels: 3 a pixel are expected", width, height,
          pixels.size());
    const ConstTensor view(pixels.data(), DType::kU8, {height, width, 3});
    return encode_image(format, view, checked_quality(request.quality),
                        texts ? *texts : ImageTexts{});
  });
}

void Image::write(const fs::path& file) const {
  with_named_exceptions([&] {
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
  });
}

}  // namespace flux
