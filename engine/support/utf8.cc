#include "support/utf8.h"

#include <fmt/format.h>

namespace flux {
namespace {

/// Length of the well-formed sequence that starts at `position`, or 0. Source: The Unicode
/// Standard, table 3-7.
size_t sequence_length(std::string_view text, size_t position) {
  const auto byte = [&](size_t i) {
    return position + i < text.size() ? static_cast<unsigned char>(text[position + i]) : 0u;
  };
  const auto within = [](unsigned value, unsigned low, unsigned high) {
    return value >= low && value <= high;
  };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  if (within(first, 0xc2, 0xdf)) return within(byte(1), 0x80, 0xbf) ? 2 : 0;
  if (within(first, 0xe0, 0xef)) {
    const unsigned low = first == 0xe0 ? 0xa0 : 0x80;   // no overlong forms
    const unsigned high = first == 0xed ? 0x9f : 0xbf;  // no surrogates
    return within(byte(1), low, high) && within(byte(2), 0x80, 0xbf) ? 3 : 0;
  }
  if (within(first, 0xf0, 0xf4)) {
    const unsigned low = first == 0xf0 ? 0x90 : 0x80;
    const unsigned high = first == 0xf4 ? 0x8f : 0xbf;  // nothing above U+10FFFF
    const bool valid =
        within(byte(1), low, high) && within(byte(2), 0x80, 0xbf) && within(byte(3), 0x80, 0xbf);
    return valid ? 4 : 0;
  }
  return 0;
}

/// Whether the byte at `position` goes on with the character before it.
bool is_inside(std::string_view text, size_t position) {
  return (static_cast<unsigned char>(text[position]) & 0xc0) == 0x80;
}

}  // namespace

std::optional<size_t> find_invalid_utf8(std::string_view text) {
  for (size_t position = 0; position < text.size();) {
    const size_t length = sequence_length(text, position);
    if (length == 0) return position;
    position += length;
  }
  return std::nullopt;
}

std::string_view first_bytes(std::string_view text, size_t most) {
  if (text.size() <= most) return text;
  while (most > 0 && is_inside(text, most)) --most;
  return text.substr(0, most);
}

std::string excerpt(std::string_view text) {
  if (text.size() <= kMaxQuotedBytes) return std::string(text);
  return fmt::format("{}... ({} bytes)", first_bytes(text, kMaxQuotedBytes), text.size());
}

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

std::string readable_message(std::string_view message) {
  std::string text;
  while (const std::optional<size_t> bad = find_invalid_utf8(message)) {
    text += message.substr(0, *bad);
    text += fmt::format("\\x{:02x}", static_cast<unsigned char>(message[*bad]));
    message.remove_prefix(*bad + 1);
  }
  text += message;
  if (text.size() <= kMaxMessageBytes) return text;
  constexpr size_t kEnd = kMaxMessageBytes / 4;
  constexpr size_t kBeginning = kMaxMessageBytes - kEnd - 64;  // the note between has room, too
  const std::string_view head = first_bytes(text, kBeginning);
  size_t begin_of_tail = text.size() - kEnd;
  while (is_inside(text, begin_of_tail)) ++begin_of_tail;
  return fmt::format("{} [... {} bytes ...] {}", head, begin_of_tail - head.size(),
                     text.substr(begin_of_tail));
}

}  // namespace flux
