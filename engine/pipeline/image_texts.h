#pragma once

#include <string>

#include "image/image_format.h"
#include "pipeline/request.h"
#include "pipeline/text_to_image.h"

namespace flux {

/// Where images come from.
struct ImageOrigin {
  DType dtype = DType::kF32;
  std::string checkpoint;  // its name, for people
  std::string software;    // program and version
};

/// What the file of a generated image says of its making: the settings that make it again.
ImageTexts describe_image(const ImageParams& row, const GeneratedImage& image,
                          const ImageOrigin& origin);

}  // namespace flux
