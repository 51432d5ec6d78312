#pragma once

#include <string_view>

#include "tensor/tensor.h"

namespace flux {

/// The orientation of an image, 1 to 8, as EXIF numbers them (CIPA DC-008; 1 is upright): of EXIF's
/// first directory, and where that says nothing, of XMP. 1 where neither says anything, or nothing
/// that can be read. `exif` is a TIFF file, which may have "Exif\0\0" before it; both are
/// untrusted. Source: Pillow's Image.getexif.
int orientation_of(std::string_view exif, std::string_view xmp);

/// The image as it is meant to be seen. pixels: [height, width, channels], u8, contiguous, on the
/// host; orientations 5 to 8 exchange height and width. Source: Pillow's ImageOps.exif_transpose.
Tensor turn_upright(const Tensor& pixels, int orientation);

}  // namespace flux
