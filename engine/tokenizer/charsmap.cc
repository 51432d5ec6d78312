#include "tokenizer/charsmap.h"

#include "support/error.h"
#include "tokenizer/graphemes.h"
#include "tokenizer/unicode.h"

namespace flux {
namespace {

// Longer clusters are replaced character by character.
constexpr size_t kMaxClusterBytes = 5;

// Fields of a Darts-clone unit.
size_t offset(uint32_t unit) { return static_cast<size_t>(unit >> 10) << ((unit & 0x200u) >> 6); }
uint32_t label(uint32_t unit) { return unit & 0x800000ffu; }
bool has_leaf(uint32_t unit) { return (unit & 0x100u) != 0; }
uint32_t leaf_value(uint32_t unit) { return unit & 0x7fffffffu; }

uint32_t read_u32(std::string_view bytes, size_t at) {
  uint32_t value = 0;
  for (size_t i = 4; i-- > 0;) value = (value << 8) | static_cast<unsigned char>(bytes[at + i]);
  return value;
}

}  // namespace

Charsmap::Charsmap(std::string_view bytes, const std::string& source) : source_(source) {
  check(bytes.size() >= 4, ErrorCode::kInvalidArgument,
        "{}: precompiled_charsmap has {} bytes, too few to hold its size; copy the file from the "
        "checkpoint again",
        source, bytes.size());
  const size_t trie_bytes = read_u32(bytes, 0);
  check(trie_bytes >= 4 && trie_bytes % 4 == 0 && trie_bytes <= bytes.size() - 4,
        ErrorCode::kInvalidArgument,
        "{}: precompiled_charsmap says its trie has {} bytes, of {} there; copy the file from the "
        "checkpoint again",
        source, trie_bytes, bytes.size() - 4);
  units_.reserve(trie_bytes / 4);
  for (size_t at = 0; at < trie_bytes; at += 4) units_.push_back(read_u32(bytes, 4 + at));
  replacements_ = bytes.substr(4 + trie_bytes);
  check(unicode::is_valid(replacements_), ErrorCode::kInvalidArgument,
        "{}: the replacements of precompiled_charsmap are not valid UTF-8; copy the file from the "
        "checkpoint again",
        source);
}

uint32_t Charsmap::unit(size_t at) const {
  check(at < units_.size(), ErrorCode::kInvalidArgument,
        "{}: precompiled_charsmap points to unit {} of {}; copy the file from the checkpoint again",
        source_, at, units_.size());
  return units_[at];
}

bool Charsmap::find(std::string_view text, std::string_view& replacement) const {
  size_t at = offset(unit(0));
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte == 0) return false;
    at ^= byte;
    const uint32_t found = unit(at);
    if (label(found) != byte) return false;
    at ^= offset(found);
    if (!has_leaf(found)) continue;
    const size_t start = leaf_value(unit(at));
    const bool starts_character = start < replacements_.size() &&
                                  (static_cast<unsigned char>(replacements_[start]) & 0xc0) != 0x80;
    check(starts_character, ErrorCode::kInvalidArgument,
          "{}: precompiled_charsmap points to byte {} of {} of its replacements, not the start of "
          "one; copy the file from the checkpoint again",
          source_, start, replacements_.size());
    replacement = std::string_view(replacements_).substr(start);
    replacement = replacement.substr(0, replacement.find('\0'));
    return true;
  }
  return false;
}

std::string Charsmap::normalize(std::string_view text) const {
  if (units_.empty()) return std::string(text);
  const std::u32string characters = unicode::decode(text);
  std::string out;
  out.reserve(text.size());
  std::string_view replacement;
  size_t byte = 0;  // where characters[i] starts in text
  for (size_t i = 0; i < characters.size();) {
    const size_t end = unicode::grapheme_end(characters, i);
    size_t bytes = 0;
    for (size_t k = i; k < end; ++k) bytes += unicode::encoded_size(characters[k]);
    if (bytes <= kMaxClusterBytes && find(text.substr(byte, bytes), replacement)) {
      out.append(replacement);
      byte += bytes;
      i = end;
      continue;
    }
    for (; i < end; ++i) {
      const size_t size = unicode::encoded_size(characters[i]);
      const std::string_view character = text.substr(byte, size);
      out.append(find(character, replacement) ? replacement : character);
      byte += size;
    }
  }
  return out;
}

}  // namespace flux
