#include <png.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <csetjmp>
#include <cstdio>

#include "image/decoder.h"
#include "support/error.h"

namespace flux {
namespace {

constexpr const char* kName = "PNG";
constexpr size_t kMostOfText = size_t{1} << 20;  // bytes of a packed text, unpacked
constexpr int kMostTexts = 64;                   // those that follow are not read

struct Reader {
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::string_view rest;  // of the file
  int passes = 0;         // over the rows: 1, or 7 of an interlaced file
  size_t row_bytes = 0;
  char message[200] = {};

  Reader() = default;
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader() { png_destroy_read_struct(&png, &info, nullptr); }
};

// Called by libpng, which is C: nothing may be thrown through it.
void on_error(png_structp png, png_const_charp message) {
  auto* reader = static_cast<Reader*>(png_get_error_ptr(png));
  std::snprintf(reader->message, sizeof(reader->message), "%s", message);
  png_longjmp(png, 1);
}

void on_warning(png_structp, png_const_charp) {}

void on_read(png_structp png, png_bytep data, size_t size) {
  auto* reader = static_cast<Reader*>(png_get_io_ptr(png));
  if (size > reader->rest.size()) png_error(png, "end of the file");
  std::copy_n(reader->rest.data(), size, data);
  reader->rest.remove_prefix(size);
}

/// No object with a destructor lives in here: longjmp passes over it.
bool read_header(Reader& reader) {
  png_structp png = reader.png;
  if (setjmp(png_jmpbuf(png)) != 0) return false;
  png_set_read_fn(png, &reader, on_read);
  // The size is checked by allocate_pixels(), whose line is the same for all formats.
  png_set_user_limits(png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
  png_set_chunk_malloc_max(png, kMostOfText);
  png_set_chunk_cache_max(png, kMostTexts);
  png_set_crc_action(png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
  // Of what is beside the pixels only EXIF and texts matter, which may tell the orientation.
  static constexpr png_byte kRead[] = "eXIf\0tEXt\0zTXt\0iTXt";
  png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
  png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_AS_DEFAULT, kRead, 4);
  png_read_info(png, reader.info);
  return true;
}

/// As read_header(); libpng makes room for rows here.
bool start_rows(Reader& reader) {
  if (setjmp(png_jmpbuf(reader.png)) != 0) return false;
  png_set_packing(reader.png);  // values of 1, 2 and 4 bits get a byte each
  reader.passes = png_set_interlace_handling(reader.png);
  png_read_update_info(reader.png, reader.info);
  reader.row_bytes = png_get_rowbytes(reader.png, reader.info);
  return true;
}

/// What pixels of less than 8 bits, of a palette or of a transparent colour mean.
struct Meaning {
  int type = 0;   // PNG_COLOR_TYPE_...
  int depth = 0;  // bits of a value
  // A palette's entries, RGBA. Those that a file does not have are black, as Pillow has them.
  std::array<std::array<uint8_t, 4>, 256> palette{};
  bool has_transparent = false;
  png_color_16 transparent{};  // of grey or RGB without alpha

  int values() const {
    if (type == PNG_COLOR_TYPE_RGB) return 3;
    if (type == PNG_COLOR_TYPE_RGB_ALPHA) return 4;
    return type == PNG_COLOR_TYPE_GRAY_ALPHA ? 2 : 1;
  }
};

Meaning meaning_of(const Reader& reader) {
  Meaning meaning;
  meaning.type = png_get_color_type(reader.png, reader.info);
  meaning.depth = png_get_bit_depth(reader.png, reader.info);
  meaning.palette.fill({0, 0, 0, 255});
  png_colorp colours = nullptr;
  int count = 0;
  png_get_PLTE(reader.png, reader.info, &colours, &count);
  for (int i = 0; i < std::min(count, 256); ++i) {
    meaning.palette[i] = {colours[i].red, colours[i].green, colours[i].blue, 255};
  }
  png_bytep alphas = nullptr;
  png_color_16p transparent = nullptr;
  count = 0;
  if (png_get_tRNS(reader.png, reader.info, &alphas, &count, &transparent) == 0) return meaning;
  if (meaning.type == PNG_COLOR_TYPE_PALETTE) {
    for (int i = 0; i < std::min(count, 256); ++i) meaning.palette[i][3] = alphas[i];
  } else if (transparent != nullptr) {
    meaning.has_transparent = true;
    meaning.transparent = *transparent;
  }
  return meaning;
}

/// Value `i` of a row, as it is stored.
unsigned stored(const uint8_t* row, int64_t i, int depth) {
  return depth == 16 ? row[2 * i] << 8 | row[2 * i + 1] : row[i];
}

uint8_t grey_of(unsigned value, int depth) {
  if (depth == 16) return static_cast<uint8_t>(std::min(value, 255u));
  return static_cast<uint8_t>(value * 255 / ((1u << depth) - 1));
}

/// A grey pixel or colour of a row as RGBA. Values of 16 bits keep their high byte, but those of
/// grey without alpha are clipped: so does Pillow.
std::array<uint8_t, 4> pixel_of(const Meaning& meaning, const uint8_t* row, int64_t x) {
  const int depth = meaning.depth;
  const int values = meaning.values();
  const auto high = [&](int i) { return row[(x * values + i) * (depth == 16 ? 2 : 1)]; };
  const auto value = [&](int i) { return stored(row, x * values + i, depth); };
  switch (meaning.type) {
    case PNG_COLOR_TYPE_PALETTE:
      return meaning.palette[row[x]];
    case PNG_COLOR_TYPE_GRAY: {
      const uint8_t grey = grey_of(value(0), depth);
      const bool hidden = meaning.has_transparent && value(0) == meaning.transparent.gray;
      return {grey, grey, grey, static_cast<uint8_t>(hidden ? 0 : 255)};
    }
    case PNG_COLOR_TYPE_GRAY_ALPHA:
      return {high(0), high(0), high(0), high(1)};
    case PNG_COLOR_TYPE_RGB: {
      const png_color_16& key = meaning.transparent;
      const bool hidden = meaning.has_transparent && value(0) == key.red && value(1) == key.green &&
                          value(2) == key.blue;
      return {high(0), high(1), high(2), static_cast<uint8_t>(hidden ? 0 : 255)};
    }
    default:
      return {high(0), high(1), high(2), high(3)};
  }
}

void write_row(const Meaning& meaning, const uint8_t* row, int64_t width, int channels,
               uint8_t* out) {
  for (int64_t x = 0; x < width; ++x, out += channels) {
    const std::array<uint8_t, 4> pixel = pixel_of(meaning, row, x);
    std::copy_n(pixel.data(), channels, out);
  }
}

/// As read_header(). `rows`: room for one row of the file, or for all where it is interlaced.
bool read_pixels(Reader& reader, const Meaning& meaning, uint8_t* rows, const Tensor& pixels) {
  if (setjmp(png_jmpbuf(reader.png)) != 0) return false;
  const int64_t height = pixels.size(0);
  const int64_t width = pixels.size(1);
  const auto channels = static_cast<int>(pixels.size(2));
  for (int pass = 0; pass < reader.passes; ++pass) {
    for (int64_t y = 0; y < height; ++y) {
      uint8_t* row = rows + (reader.passes == 1 ? 0 : static_cast<size_t>(y) * reader.row_bytes);
      png_read_row(reader.png, row, nullptr);
      if (pass + 1 < reader.passes) continue;
      write_row(meaning, row, width, channels, pixels.data<uint8_t>() + y * width * channels);
    }
  }
  png_read_end(reader.png, reader.info);
  return true;
}

/// The bytes of ImageMagick's text: "\nexif\n  SIZE\n", then digits of 16 in lines.
std::string bytes_of_raw_profile(std::string_view text) {
  for (int line = 0; line < 3; ++line) {
    text.remove_prefix(std::min(text.size(), text.find('\n') + 1));
  }
  std::string digits(text);
  std::erase(digits, '\n');
  std::string bytes;
  for (size_t i = 0; i + 1 < digits.size(); i += 2) {
    unsigned byte = 0;
    const char* end = digits.data() + i + 2;
    if (std::from_chars(digits.data() + i, end, byte, 16).ptr != end) return {};
    bytes += static_cast<char>(byte);
  }
  return bytes;
}

void take_metadata(const Reader& reader, DecodedImage& image) {
  png_textp texts = nullptr;
  int count = 0;
  png_get_text(reader.png, reader.info, &texts, &count);
  for (int i = 0; i < count; ++i) {
    const png_text& entry = texts[i];
    const std::string_view key = entry.key;
    const size_t size =
        entry.compression >= PNG_ITXT_COMPRESSION_NONE ? entry.itxt_length : entry.text_length;
    if (entry.text == nullptr) continue;
    const std::string_view text(entry.text, size);
    if (key == "XML:com.adobe.xmp") image.xmp = text;
    if (key == "Raw profile type exif") image.exif = bytes_of_raw_profile(text);
  }
  png_bytep exif = nullptr;
  png_uint_32 size = 0;
  if (png_get_eXIf_1(reader.png, reader.info, &size, &exif) != 0) {
    image.exif.assign(reinterpret_cast<const char*>(exif), size);
  }
}

/// Refuses a file that does not hold all of its chunks. libpng makes room for a chunk, of the size
/// that the chunk names, before it finds that there are no such bytes.
void check_chunks(const DecodeTask& task) {
  constexpr size_t kSignature = 8;
  constexpr size_t kAround = 12;  // bytes of a chunk's size, its name and its checksum
  for (std::string_view rest = task.file.substr(kSignature); true;) {
    if (rest.size() < kAround) fail_truncated(task, kName);
    const size_t size = png_get_uint_32(reinterpret_cast<png_const_bytep>(rest.data()));
    if (size > rest.size() - kAround) fail_truncated(task, kName);
    if (rest.substr(4, 4) == "IEND") return;
    rest.remove_prefix(kAround + size);
  }
}

}  // namespace

DecodedImage decode_png(const DecodeTask& task) {
  check_chunks(task);
  Reader reader;
  reader.rest = task.file;
  reader.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &reader, on_error, on_warning);
  if (reader.png != nullptr) reader.info = png_create_info_struct(reader.png);
  check(reader.info != nullptr, ErrorCode::kUnavailable, "{}: no memory to decode the PNG file",
        task.what);
  if (!read_header(reader)) fail_undecodable(task, kName, reader.message);
  DecodedImage image;
  const int64_t height = png_get_image_height(reader.png, reader.info);
  image.pixels = allocate_pixels(task, height, png_get_image_width(reader.png, reader.info));
  const Meaning meaning = meaning_of(reader);
  if (!start_rows(reader)) fail_undecodable(task, kName, reader.message);
  const Tensor rows = Tensor::allocate(
      {reader.passes == 1 ? 1 : height, static_cast<int64_t>(reader.row_bytes)}, DType::kU8);
  if (!read_pixels(reader, meaning, rows.data<uint8_t>(), image.pixels)) {
    fail_undecodable(task, kName, reader.message);
  }
  take_metadata(reader, image);
  return image;
}

}  // namespace flux
