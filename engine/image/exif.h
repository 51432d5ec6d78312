#pragma once

#include <string>
#include <string_view>

namespace flux {

/// An EXIF block (CIPA DC-008, a TIFF file) whose UserComment is `text` (UTF-8), in the character
/// code UNICODE: UTF-16, big-endian as the block, as programs of this field read it.
std::string exif_with_comment(std::string_view text);

}  // namespace flux
