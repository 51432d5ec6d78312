#pragma once

#include <string>
#include <string_view>

namespace flux {

/// RFC 4648 base64 with padding.
std::string encode_base64(std::string_view bytes);

}  // namespace flux
