#include "image/png.h"

#include <png.h>

#include <csetjmp>
#include <memory>
#include <optional>

#include "support/error.h"

namespace flux {
namespace {

/// The text in Latin-1 as PNG allows it in tEXt, or nothing when it needs UTF-8.
std::optional<std::string> to_latin1(std::string_view utf8) {
  std::string latin1;
  for (size_t i = 0; i < utf8.size(); ++i) {
    const auto byte = static_cast<unsigned char>(utf8[i]);
    if (byte < 0x80) {
      if ((byte < 0x20 && byte != '\n') || byte == 0x7f) return std::nullopt;
      latin1 += utf8[i];
      continue;
    }
    // U+00A0 to U+00FF: a lead byte C2 or C3 and one more.
    if ((byte != 0xc2 && byte != 0xc3) || i + 1 == utf8.size()) return std::nullopt;
    const auto next = static_cast<unsigned char>(utf8[++i]);
    const unsigned code = (byte & 0x03u) << 6 | (next & 0x3fu);
    if ((next & 0xc0u) != 0x80u || code < 0xa0) return std::nullopt;
    latin1 += static_cast<char>(code);
  }
  return latin1;
}

struct Writer {
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::string bytes;
  std::string error;

  Writer() = default;
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  ~Writer() { png_destroy_write_struct(&png, &info); }
};

// Called by libpng, which is C: nothing may be thrown through it.
void on_error(png_structp png, png_const_charp message) {
  try {
    static_cast<Writer*>(png_get_error_ptr(png))->error = message;
  } catch (...) {  // NOLINT(bugprone-empty-catch): the error is reported without its text
  }
  png_longjmp(png, 1);
}

void on_warning(png_structp, png_const_charp) {}

void on_write(png_structp png, png_bytep data, size_t size) {
  bool stored = true;
  try {
    static_cast<Writer*>(png_get_io_ptr(png))->bytes.append(reinterpret_cast<char*>(data), size);
  } catch (...) {
    stored = false;
  }
  if (!stored) png_error(png, "out of memory");
}

void on_flush(png_structp) {}

/// Text entries in libpng's form; they point into `values`.
std::vector<png_text> make_chunks(const std::vector<ImageText>& texts,
                                  std::vector<std::string>& values) {
  std::vector<png_text> chunks;
  values.reserve(texts.size());
  for (const ImageText& entry : texts) {
    const std::optional<std::string> latin1 = to_latin1(entry.text);
    values.push_back(latin1.value_or(entry.text));
    png_text chunk{};
    chunk.compression = latin1 ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE;
    chunk.key = const_cast<char*>(entry.key.c_str());
    chunk.text = values.back().data();
    if (latin1) {
      chunk.text_length = values.back().size();
    } else {
      chunk.itxt_length = values.back().size();
    }
    chunks.push_back(chunk);
  }
  return chunks;
}

/// No object with a destructor lives in here: longjmp passes over it.
bool write_image(Writer& writer, const ConstTensor& pixels, png_text* texts, int text_count) {
  if (setjmp(png_jmpbuf(writer.png)) != 0) return false;
  png_set_write_fn(writer.png, &writer, on_write, on_flush);
  const auto height = static_cast<png_uint_32>(pixels.size(0));
  const auto width = static_cast<png_uint_32>(pixels.size(1));
  png_set_IHDR(writer.png, writer.info, width, height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_set_text(writer.png, writer.info, texts, text_count);
  png_write_info(writer.png, writer.info);
  for (png_uint_32 row = 0; row < height; ++row) {
    png_write_row(writer.png, pixels.data<png_byte>() + size_t{row} * width * 3);
  }
  png_write_end(writer.png, writer.info);
  return true;
}

}  // namespace

std::string encode_png(const ConstTensor& pixels, const std::vector<ImageText>& texts) {
  Writer writer;
  writer.png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &writer, on_error, on_warning);
  if (writer.png != nullptr) writer.info = png_create_info_struct(writer.png);
  check(writer.info != nullptr, ErrorCode::kUnavailable, "PNG: libpng cannot be set up");
  std::vector<std::string> values;
  std::vector<png_text> chunks = make_chunks(texts, values);
  const bool written = write_image(writer, pixels, chunks.data(), static_cast<int>(chunks.size()));
  check(written, ErrorCode::kInternal, "PNG: libpng refuses the image: {}", writer.error);
  return std::move(writer.bytes);
}

}  // namespace flux
