#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace flux {

/// Returns the position of the first byte that is not well-formed UTF-8 (overlong forms, surrogates
/// and values above U+10FFFF are not), or nothing.
std::optional<size_t> find_invalid_utf8(std::string_view text);

}  // namespace flux
