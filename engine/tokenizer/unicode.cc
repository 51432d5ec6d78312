#include "tokenizer/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <iterator>
#include <vector>

#include "support/error.h"
#include "tokenizer/code_point_ranges.h"

namespace flux::unicode {
namespace {

// Letters and numbers assigned after Unicode 15.0, the version of the oldest utf8proc in use.
constexpr Range kLaterLetters[] = {
    {0x1c89, 0x1c8a},   {0xa7cb, 0xa7cd},   {0xa7da, 0xa7dc},   {0x105c0, 0x105f3},
    {0x10d4a, 0x10d65}, {0x10d6f, 0x10d85}, {0x10ec2, 0x10ec4}, {0x11380, 0x11389},
    {0x1138b, 0x1138b}, {0x1138e, 0x1138e}, {0x11390, 0x113b5}, {0x113b7, 0x113b7},
    {0x113d1, 0x113d1}, {0x113d3, 0x113d3}, {0x11bc0, 0x11be0}, {0x13460, 0x143fa},
    {0x16100, 0x1611d}, {0x16d40, 0x16d6c}, {0x18cff, 0x18cff}, {0x1e5d0, 0x1e5ed},
    {0x1e5f0, 0x1e5f0}, {0x2ebf0, 0x2ee5d}};
constexpr Range kLaterNumbers[] = {{0x10d40, 0x10d49}, {0x116d0, 0x116e3}, {0x11bf0, 0x11bf9},
                                   {0x16130, 0x16139}, {0x16d70, 0x16d79}, {0x1ccf0, 0x1ccf9},
                                   {0x1e5f1, 0x1e5fa}};

// Characters that `tokenizers` neither reorders nor composes, while utf8proc does: combining marks
// assigned after Unicode 9, the composition U+11935 U+11930, and U+11A7, which utf8proc takes for
// a trailing Hangul consonant.
constexpr Range kInertInNfc[] = {
    {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},
    {0xc3c, 0xc3c},     {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x11a7, 0x11a7},
    {0x1715, 0x1715},   {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},   {0xa82c, 0xa82c},
    {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50},
    {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e},
    {0x11839, 0x1183a}, {0x11930, 0x11930}, {0x11938, 0x11938}, {0x1193d, 0x1193e},
    {0x11943, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47},
    {0x11a99, 0x11a99}, {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97},
    {0x11f41, 0x11f42}, {0x16ff0, 0x16ff1}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136},
    {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef}};

// Capitals assigned or paired after Unicode 15.0: lower case = capital + distance.
struct LowerRange {
  char32_t first;
  char32_t last;
  int32_t distance;
};
constexpr LowerRange kLaterLower[] = {{0x1c89, 0x1c89, 1},      {0xa7cb, 0xa7cb, 0x264 - 0xa7cb},
                                      {0xa7cc, 0xa7cc, 1},      {0xa7ce, 0xa7ce, 1},
                                      {0xa7d2, 0xa7d2, 1},      {0xa7d4, 0xa7d4, 1},
                                      {0xa7da, 0xa7da, 1},      {0xa7dc, 0xa7dc, 0x19b - 0xa7dc},
                                      {0x10d50, 0x10d65, 0x20}, {0x16ea0, 0x16eb8, 0x1b}};

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

void append_nfc(std::u32string& out, std::u32string_view part) {
  if (part.empty()) return;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  // No character decomposes into more than four.
  std::vector<utf8proc_int32_t> buffer(part.size() * 4 + 4);
  utf8proc_ssize_t used = 0;
  int boundary = 0;
  for (const char32_t c : part) {
    const auto room = static_cast<utf8proc_ssize_t>(buffer.size()) - used;
    const utf8proc_ssize_t written = utf8proc_decompose_char(
        static_cast<utf8proc_int32_t>(c), buffer.data() + used, room,
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE), &boundary);
    check(written >= 0 && written <= room, ErrorCode::kInternal,
          "decomposing U+{:04X} gave {} characters of room for {}", static_cast<uint32_t>(c),
          written, room);
    used += written;
  }
  // Marks in canonical order: a stable sort of each run of non-starters (utf8proc_decompose would
  // do it in quadratic time).
  const auto combining_class = [](utf8proc_int32_t c) {
    return utf8proc_get_property(c)->combining_class;
  };
  const auto end = buffer.begin() + used;
  for (auto run = buffer.begin(); run != end;) {
    if (combining_class(*run) == 0) {
      ++run;
      continue;
    }
    const auto stop = std::find_if(run, end, [&](auto c) { return combining_class(c) == 0; });
    std::stable_sort(run, stop,
                     [&](auto a, auto b) { return combining_class(a) < combining_class(b); });
    run = stop;
  }
  const utf8proc_ssize_t composed = utf8proc_normalize_utf32(buffer.data(), used, options);
  check(composed >= 0 && composed <= used, ErrorCode::kInternal, "composing {} characters gave {}",
        used, composed);
  for (utf8proc_ssize_t i = 0; i < composed; ++i) {
    out.push_back(static_cast<char32_t>(buffer[static_cast<size_t>(i)]));
  }
}

// Decodes one character; returns its bytes, or 0 when they are not valid UTF-8.
size_t decode_one(std::string_view text, size_t at, char32_t& c) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) {
    c = lead;
    return 1;
  }
  const size_t size = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() - at < size) return 0;
  c = lead & (0x7fu >> size);
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
    c = (c << 6) | (byte(i) & 0x3fu);
  }
  const bool surrogate = c >= 0xd800 && c < 0xe000;
  return encoded_size(c) == size && c <= 0x10ffff && !surrogate ? size : 0;
}

}  // namespace

std::u32string decode(std::string_view utf8) {
  std::u32string out;
  out.reserve(utf8.size());
  for (size_t at = 0; at < utf8.size();) {
    char32_t c = 0;
    const size_t size = decode_one(utf8, at, c);
    check(size != 0, ErrorCode::kInvalidArgument,
          "the text is not valid UTF-8: byte 0x{:02x} at offset {} does not start or continue a "
          "character; send the text as UTF-8",
          static_cast<unsigned>(static_cast<unsigned char>(utf8[at])), at);
    out.push_back(c);
    at += size;
  }
  return out;
}

bool is_valid(std::string_view bytes) {
  char32_t c = 0;
  for (size_t at = 0; at < bytes.size();) {
    const size_t size = decode_one(bytes, at, c);
    if (size == 0) return false;
    at += size;
  }
  return true;
}

void append(std::string& out, char32_t c) {
  const auto put = [&](char32_t bits) { out.push_back(static_cast<char>(bits)); };
  const auto tail = [&](int shift) { put(0x80 | ((c >> shift) & 0x3f)); };
  switch (encoded_size(c)) {
    case 1:
      put(c);
      break;
    case 2:
      put(0xc0 | (c >> 6));
      tail(0);
      break;
    case 3:
      put(0xe0 | (c >> 12));
      tail(6);
      tail(0);
      break;
    default:
      put(0xf0 | (c >> 18));
      tail(12);
      tail(6);
      tail(0);
  }
}

std::string encode(std::u32string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char32_t c : text) append(out, c);
  return out;
}

char32_t next(std::string_view text, size_t& at) {
  char32_t c = 0;
  const size_t size = decode_one(text, at, c);
  at += std::max<size_t>(size, 1);
  return c;
}

bool is_space(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13);
  return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
         c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_letter(char32_t c) {
  const utf8proc_category_t found = category(c);
  return (found >= UTF8PROC_CATEGORY_LU && found <= UTF8PROC_CATEGORY_LO) ||
         contains(kLaterLetters, c);
}

bool is_number(char32_t c) {
  const utf8proc_category_t found = category(c);
  return (found >= UTF8PROC_CATEGORY_ND && found <= UTF8PROC_CATEGORY_NO) ||
         contains(kLaterNumbers, c);
}

bool is_word(char32_t c) {
  // Letter-like symbols (circled and squared letters) count as alphabetic.
  constexpr Range kAlphabeticSymbols[] = {{0x200c, 0x200d},
                                          {0x24b6, 0x24e9},
                                          {0x1f130, 0x1f149},
                                          {0x1f150, 0x1f169},
                                          {0x1f170, 0x1f189}};
  const utf8proc_category_t found = category(c);
  return is_letter(c) || (found >= UTF8PROC_CATEGORY_MN && found <= UTF8PROC_CATEGORY_NL) ||
         found == UTF8PROC_CATEGORY_PC || contains(kAlphabeticSymbols, c);
}

std::u32string nfc(std::u32string_view text) {
  std::u32string out;
  out.reserve(text.size());
  size_t start = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (!contains(kInertInNfc, text[i])) continue;
    append_nfc(out, text.substr(start, i - start));
    out.push_back(text[i]);
    start = i + 1;
  }
  append_nfc(out, text.substr(start));
  return out;
}

std::u32string lowercase(std::u32string_view text) {
  std::u32string out;
  out.reserve(text.size());
  for (const char32_t c : text) {
    if (c == 0x130) {
      out.append(U"i\u0307");
      continue;
    }
    const LowerRange* later =
        std::find_if(std::begin(kLaterLower), std::end(kLaterLower),
                     [c](const LowerRange& r) { return c >= r.first && c <= r.last; });
    out.push_back(later != std::end(kLaterLower)
                      ? static_cast<char32_t>(static_cast<int32_t>(c) + later->distance)
                      : static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
  }
  return out;
}

}  // namespace flux::unicode
