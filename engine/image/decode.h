#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "tensor/tensor.h"

namespace flux {

/// What an image file may ask for at most. All of it is told from the file's head, before anything
/// is decoded or room is made for it. Decoding takes 12 bytes of memory a pixel at most: a small
/// file of PNG can ask for that, too.
struct ImageBounds {
  size_t bytes = size_t{64} << 20;     // of the file
  int64_t pixels = int64_t{64} << 20;  // height x width
  int64_t side = 32768;                // pixels
  int64_t ratio = 256;                 // of the longer side to the shorter one
};

// Reading PNG, JPEG and WebP files, told apart by their content. The pixels are those that Pillow
// 13 gives, to the byte: ImageOps.exif_transpose(Image.open(file)).convert(mode). So grey of 16
// bits is clipped at 255, colours of 16 bits keep their high byte, alpha is dropped and not
// composited, CMYK in JPEG is Adobe's (inverted), an animation is its first frame, and an
// orientation in EXIF or XMP is applied. Profiles and gamma are not. What is cut off, damaged, out
// of bounds or of another format throws kInvalidArgument, in a line that begins with `what`: how
// the caller names the image. kUnavailable: no memory. Stricter than Pillow: each checksum of a PNG
// file must be right, its end must be there, and a JPEG file may have 100 scans. What follows the
// end of an image is ignored, as is EXIF that cannot be read.

/// RGB: [height, width, 3], u8, contiguous, on the host.
Tensor decode_image(std::string_view file, const std::string& what, const ImageBounds& bounds = {});

/// RGBA: [height, width, 4], u8; alpha is not multiplied into the colours, and 255 in a file that
/// has none. convert("RGBA"); but a transparent colour of PNG (tRNS) is compared with pixels as
/// they are stored, where Pillow compares those of 2, 4 and 16 bits after scaling them.
Tensor decode_image_with_alpha(std::string_view file, const std::string& what,
                               const ImageBounds& bounds = {});

/// Grey, of a mask: [height, width], u8; white is 255. convert("L"). A mask that has colours and is
/// to be resized should come from decode_image(): VaeImageProcessor resizes before it makes grey.
Tensor decode_mask(std::string_view file, const std::string& what, const ImageBounds& bounds = {});

/// The file that a text holds, which is its bytes themselves, their base64 (white space in it is
/// skipped), or a data URL (RFC 2397): "data:image/png;base64,...". Throws kInvalidArgument as
/// above for what is none of these, or more than the bounds allow.
std::string image_file_of(std::string_view text, const std::string& what,
                          const ImageBounds& bounds = {});

/// Pillow's convert("L"): [height, width, 3] -> [height, width], both u8.
Tensor to_grey(const ConstTensor& rgb);

}  // namespace flux
