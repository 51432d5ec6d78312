#pragma once

#include <zlib.h>

#include <cstdint>
#include <string>

namespace flux::testing {

/// A PNG file with the right checksum for each chunk that lies within it.
inline std::string with_png_checksums(std::string file) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(file.data());
  const auto number = [&](size_t at) {
    return uint32_t{bytes[at]} << 24 | uint32_t{bytes[at + 1]} << 16 |
           uint32_t{bytes[at + 2]} << 8 | bytes[at + 3];
  };
  for (size_t at = 8; at + 12 <= file.size();) {
    const size_t size = number(at);
    if (size > file.size() - at - 12) break;
    const uLong sum = crc32(crc32(0, nullptr, 0), bytes + at + 4, static_cast<uInt>(size + 4));
    for (size_t i = 0; i < 4; ++i) file[at + 8 + size + i] = static_cast<char>(sum >> (24 - 8 * i));
    at += 12 + size;
  }
  return file;
}

}  // namespace flux::testing
