#pragma once

#include <string>
#include <string_view>

namespace flux {

// Base64 of RFC 4648, with padding.

std::string encode_base64(std::string_view bytes);

/// The bytes of a text. Throws kInvalidArgument, naming the text as `what` and saying what to do,
/// for a length that is no multiple of 4 and for a character that is not base64.
std::string decode_base64(std::string_view text, const std::string& what,
                          std::string_view remedy = "copy the file from the checkpoint again");

}  // namespace flux
