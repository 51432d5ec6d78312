#include "image/orientation.h"

#include <cstdint>
#include <cstring>
#include <optional>

namespace flux {
namespace {

using namespace std::string_view_literals;

constexpr uint32_t kOrientation = 0x0112;
constexpr uint32_t kShort = 3;
constexpr uint32_t kLong = 4;
constexpr uint32_t kSignedShort = 8;
constexpr uint32_t kSignedLong = 9;
constexpr size_t kEntry = 12;  // bytes: tag, type, count, value

/// Numbers of a TIFF file. What lies beyond its end is nothing.
struct Tiff {
  std::string_view bytes;
  bool is_little = false;

  std::optional<uint32_t> number(size_t at, size_t size) const {
    if (at > bytes.size() || size > bytes.size() - at) return std::nullopt;
    uint32_t value = 0;
    for (size_t i = 0; i < size; ++i) {
      const size_t place = is_little ? at + size - 1 - i : at + i;
      value = value << 8 | static_cast<unsigned char>(bytes[place]);
    }
    return value;
  }
};

std::optional<Tiff> open_tiff(std::string_view bytes) {
  // Twice in some files.
  for (int i = 0; i < 2 && bytes.starts_with("Exif\0\0"sv); ++i) bytes.remove_prefix(6);
  if (bytes.starts_with("II*\0"sv)) return Tiff{bytes, true};
  if (bytes.starts_with("MM\0*"sv)) return Tiff{bytes, false};
  return std::nullopt;
}

/// The first of an entry's values, where they are whole numbers of 2 or 4 bytes.
std::optional<uint32_t> first_value(const Tiff& tiff, size_t entry) {
  const uint32_t type = *tiff.number(entry + 2, 2);
  const uint64_t count = *tiff.number(entry + 4, 4);
  const bool is_short = type == kShort || type == kSignedShort;
  if (!is_short && type != kLong && type != kSignedLong) return 0;
  const size_t size = is_short ? 2 : 4;
  return tiff.number(count * size > 4 ? *tiff.number(entry + 8, 4) : entry + 8, size);
}

/// The value of the tag, whatever it is.
std::optional<uint32_t> orientation_in_exif(std::string_view exif) {
  const std::optional<Tiff> tiff = open_tiff(exif);
  if (!tiff) return std::nullopt;
  const std::optional<uint32_t> directory = tiff->number(4, 4);
  const std::optional<uint32_t> entries = directory ? tiff->number(*directory, 2) : std::nullopt;
  for (uint32_t i = 0; entries && i < *entries; ++i) {
    const size_t entry = size_t{*directory} + 2 + i * kEntry;
    const std::optional<uint32_t> tag = tiff->number(entry, 2);
    if (!tag || !tiff->number(entry + 8, 4)) return std::nullopt;  // the end of the file
    if (*tag != kOrientation) continue;
    return first_value(*tiff, entry);
  }
  return std::nullopt;
}

/// The first of tiff:Orientation="6" and <tiff:Orientation>6<.
std::optional<uint32_t> orientation_in_xmp(std::string_view xmp) {
  constexpr std::string_view kName = "tiff:Orientation";
  for (size_t at = xmp.find(kName); at != std::string_view::npos; at = xmp.find(kName, at)) {
    at += kName.size();
    std::string_view rest = xmp.substr(at);
    if (rest.starts_with("=\"")) {
      rest.remove_prefix(2);
    } else if (rest.starts_with(">")) {
      rest.remove_prefix(1);
    } else {
      continue;
    }
    if (!rest.empty() && rest[0] >= '0' && rest[0] <= '9') return rest[0] - '0';
  }
  return std::nullopt;
}

template <int channels>
void turn(const Tensor& from, const Tensor& to, int orientation) {
  const int64_t rows = from.size(0);
  const int64_t columns = from.size(1);
  const bool exchanged = orientation >= 5;
  const bool from_below =
      orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  const bool from_right =
      orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const auto* in = from.data<uint8_t>();
  auto* out = to.data<uint8_t>();
  for (int64_t y = 0; y < to.size(0); ++y) {
    for (int64_t x = 0; x < to.size(1); ++x, out += channels) {
      const int64_t row = exchanged ? x : y;
      const int64_t column = exchanged ? y : x;
      const int64_t source = (from_below ? rows - 1 - row : row) * columns +
                             (from_right ? columns - 1 - column : column);
      std::memcpy(out, in + source * channels, channels);
    }
  }
}

}  // namespace

int orientation_of(std::string_view exif, std::string_view xmp) {
  std::optional<uint32_t> value = orientation_in_exif(exif);
  if (!value) value = orientation_in_xmp(xmp);
  return value && *value >= 1 && *value <= 8 ? static_cast<int>(*value) : 1;
}

Tensor turn_upright(const Tensor& pixels, int orientation) {
  if (orientation == 1) return pixels;
  const bool exchanged = orientation >= 5;
  const Tensor upright = Tensor::allocate(
      {pixels.size(exchanged ? 1 : 0), pixels.size(exchanged ? 0 : 1), pixels.size(2)}, DType::kU8);
  if (pixels.size(2) == 3) {
    turn<3>(pixels, upright, orientation);
  } else {
    turn<4>(pixels, upright, orientation);
  }
  return upright;
}

}  // namespace flux
