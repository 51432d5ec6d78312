#include "image/exif.h"

#include <cstdint>

namespace flux {
namespace {

constexpr uint16_t kExifIfd = 0x8769;
constexpr uint16_t kUserComment = 0x9286;
constexpr uint16_t kLong = 4;
constexpr uint16_t kUndefined = 7;

void put16(std::string& out, uint16_t value) {
  out += static_cast<char>(value >> 8);
  out += static_cast<char>(value & 0xff);
}

void put32(std::string& out, uint32_t value) {
  put16(out, static_cast<uint16_t>(value >> 16));
  put16(out, static_cast<uint16_t>(value & 0xffff));
}

/// One entry of a directory of tags.
void put_entry(std::string& out, uint16_t tag, uint16_t type, uint32_t count, uint32_t value) {
  put16(out, tag);
  put16(out, type);
  put32(out, count);
  put32(out, value);
}

/// The next character of valid UTF-8; `at` moves past it.
uint32_t next_character(std::string_view text, size_t& at) {
  const auto lead = static_cast<unsigned char>(text[at++]);
  const int more = lead < 0x80 ? 0 : lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
  uint32_t code = more == 0 ? lead : lead & (0x3fu >> more);
  for (int i = 0; i < more && at < text.size(); ++i) {
    code = code << 6 | (static_cast<unsigned char>(text[at++]) & 0x3fu);
  }
  return code;
}

std::string to_utf16(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const uint32_t code = next_character(text, at);
    if (code < 0x10000) {
      put16(out, static_cast<uint16_t>(code));
    } else {
      put16(out, static_cast<uint16_t>(0xd800 + ((code - 0x10000) >> 10)));
      put16(out, static_cast<uint16_t>(0xdc00 + ((code - 0x10000) & 0x3ff)));
    }
  }
  return out;
}

}  // namespace

std::string exif_with_comment(std::string_view text) {
  // A directory is a count of 2 bytes, entries of 12, and the next directory's place of 4.
  constexpr uint32_t kHeader = 8;
  constexpr uint32_t kDirectory = 2 + 12 + 4;
  constexpr uint32_t kComment = kHeader + 2 * kDirectory;
  const std::string comment = std::string("UNICODE\0", 8) + to_utf16(text);
  std::string out("MM\0*", 4);  // big-endian, TIFF
  put32(out, kHeader);
  put16(out, 1);
  put_entry(out, kExifIfd, kLong, 1, kHeader + kDirectory);
  put32(out, 0);
  put16(out, 1);
  put_entry(out, kUserComment, kUndefined, static_cast<uint32_t>(comment.size()), kComment);
  put32(out, 0);
  return out + comment;
}

}  // namespace flux
