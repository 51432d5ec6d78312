#pragma once

#include <string>
#include <string_view>

namespace flux::unicode {

// Unicode as the Hugging Face `tokenizers` library sees it. Its parts follow different versions of
// Unicode (normalisation 9, letters and numbers 16, lower case 17); utf8proc follows one. Where the
// two differ, small tables in unicode.cc decide in favour of `tokenizers`, since ids must be equal.

/// Decodes a text to code points. Throws kInvalidArgument naming the byte when it is not valid
/// UTF-8.
std::u32string decode(std::string_view utf8);

/// True when `bytes` is valid UTF-8 (no surrogates, no overlong forms).
bool is_valid(std::string_view bytes);

/// Appends one code point as UTF-8.
void append(std::string& out, char32_t code_point);

/// Encodes valid code points as UTF-8.
std::string encode(std::u32string_view text);

/// Number of bytes of a code point in UTF-8.
inline size_t encoded_size(char32_t c) {
  return c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
}

/// Returns the character at `text[at]`, which must be valid UTF-8 and start a character; advances
/// `at`.
char32_t next(std::string_view text, size_t& at);

bool is_space(char32_t c);   // White_Space
bool is_letter(char32_t c);  // \p{L}
bool is_number(char32_t c);  // \p{N}
bool is_word(char32_t c);    // \w of the Rust regex crate

/// Composes canonically (NFC).
std::u32string nfc(std::u32string_view text);

/// Converts each character by itself to lower case: a final capital sigma becomes U+03C3, U+0130
/// two characters.
std::u32string lowercase(std::u32string_view text);

}  // namespace flux::unicode
