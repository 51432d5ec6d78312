#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace flux {

/// Returns the position of the first byte that is not well-formed UTF-8 (overlong forms, surrogates
/// and values above U+10FFFF are not), or nothing.
std::optional<size_t> find_invalid_utf8(std::string_view text);

/// The first bytes of a text in UTF-8, at most `most`, that end with a whole character.
std::string_view first_bytes(std::string_view text, size_t most);

/// A text as a message quotes it: of one that is longer than kMaxQuotedBytes the beginning, and how
/// many bytes there are.
std::string excerpt(std::string_view text);
inline constexpr size_t kMaxQuotedBytes = 200;

/// A text with the letters A to Z in lower case.
std::string lower_case(std::string_view text);

/// A message as it may leave the program, whatever it quotes: well-formed UTF-8, bytes that are
/// none as \xff, and of at most kMaxMessageBytes: of a longer one the middle is left out, because
/// the beginning names the thing and the end says what to do.
std::string readable_message(std::string_view message);
inline constexpr size_t kMaxMessageBytes = 2000;

}  // namespace flux
