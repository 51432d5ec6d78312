#pragma once

#include <cstddef>
#include <string_view>

namespace flux::unicode {

/// End (index after the last code point) of the extended grapheme cluster that starts at
/// `text[start]`: UAX #29 with the rules of Unicode 17, as the Rust crate unicode-segmentation
/// splits. Precondition: start < text.size().
size_t grapheme_end(std::u32string_view text, size_t start);

}  // namespace flux::unicode
