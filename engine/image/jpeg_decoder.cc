#include <cstdio>
// jpeglib.h needs what cstdio declares.
#include <jpeglib.h>
// After jpeglib.h.
#include <jerror.h>

#include <algorithm>
#include <csetjmp>
#include <vector>

#include "image/decoder.h"
#include "support/error.h"

namespace flux {
namespace {

using namespace std::string_view_literals;

constexpr const char* kName = "JPEG";
constexpr int kMarkerExif = JPEG_APP0 + 1;  // EXIF and XMP, each by its first bytes
// Each scan passes over the whole image, and may take a few bytes of the file.
constexpr int kMostScans = 100;

enum class Outcome { kDone, kTruncated, kRefused, kTooManyScans };

struct Reader {
  jpeg_decompress_struct jpeg{};
  jpeg_error_mgr errors{};
  jpeg_source_mgr source{};
  jpeg_progress_mgr progress{};
  std::jmp_buf jump{};
  char message[JMSG_LENGTH_MAX] = {};
  int error = 0;  // libjpeg's number
  bool has_too_many_scans = false;

  Reader() = default;
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader() { jpeg_destroy_decompress(&jpeg); }
};

// Called by libjpeg, which is C: nothing may be thrown through it.
void on_error(j_common_ptr info) {
  auto* reader = static_cast<Reader*>(info->client_data);
  reader->error = info->err->msg_code;
  info->err->format_message(info, reader->message);
  std::longjmp(reader->jump, 1);
}

void on_message(j_common_ptr) {}

void on_progress(j_common_ptr info) {
  auto* reader = static_cast<Reader*>(info->client_data);
  if (reader->jpeg.input_scan_number <= kMostScans) return;
  reader->has_too_many_scans = true;
  std::longjmp(reader->jump, 1);
}

void on_start(j_decompress_ptr) {}

// The file is in memory as a whole: who asks for more gets none, and libjpeg returns.
boolean on_empty(j_decompress_ptr) { return FALSE; }

void on_skip(j_decompress_ptr jpeg, long count) {  // NOLINT(google-runtime-int): libjpeg's type
  jpeg_source_mgr& source = *jpeg->src;
  if (count <= 0) return;
  const size_t skipped = std::min(static_cast<size_t>(count), source.bytes_in_buffer);
  source.next_input_byte += skipped;
  source.bytes_in_buffer -= skipped;
}

Outcome outcome_of_jump(const Reader& reader) {
  return reader.has_too_many_scans ? Outcome::kTooManyScans : Outcome::kRefused;
}

/// No object with a destructor lives in here: longjmp passes over it.
Outcome read_header(Reader& reader, std::string_view file) {
  jpeg_decompress_struct& jpeg = reader.jpeg;
  jpeg.err = jpeg_std_error(&reader.errors);
  reader.errors.error_exit = on_error;
  reader.errors.output_message = on_message;
  jpeg.client_data = &reader;
  if (setjmp(reader.jump) != 0) return outcome_of_jump(reader);
  jpeg_create_decompress(&jpeg);
  reader.progress.progress_monitor = on_progress;
  jpeg.progress = &reader.progress;
  reader.source.init_source = on_start;
  reader.source.fill_input_buffer = on_empty;
  reader.source.skip_input_data = on_skip;
  reader.source.resync_to_restart = jpeg_resync_to_restart;
  reader.source.term_source = on_start;
  reader.source.next_input_byte = reinterpret_cast<const JOCTET*>(file.data());
  reader.source.bytes_in_buffer = file.size();
  jpeg.src = &reader.source;
  jpeg_save_markers(&jpeg, kMarkerExif, 0xffff);
  return jpeg_read_header(&jpeg, TRUE) == JPEG_HEADER_OK ? Outcome::kDone : Outcome::kTruncated;
}

/// Pillow's cmyk2rgb of Adobe's inverted inks.
void write_inks(const uint8_t* inks, uint8_t* rgb) {
  const int light = inks[3];
  for (int i = 0; i < 3; ++i) {
    const int product = (255 - inks[i]) * light + 128;
    rgb[i] = static_cast<uint8_t>(std::max(light - (((product >> 8) + product) >> 8), 0));
  }
}

/// One row as libjpeg gives it, RGB or inverted CMYK, as pixels of 3 or 4 channels.
void write_row(const uint8_t* row, int components, int64_t width, int channels, uint8_t* out) {
  for (int64_t x = 0; x < width; ++x, row += components, out += channels) {
    if (components == 4) {
      write_inks(row, out);
    } else {
      std::copy_n(row, 3, out);
    }
    if (channels == 4) out[3] = 255;
  }
}

/// As read_header().
Outcome read_pixels(Reader& reader, uint8_t* row, const Tensor& pixels) {
  jpeg_decompress_struct& jpeg = reader.jpeg;
  if (setjmp(reader.jump) != 0) return outcome_of_jump(reader);
  jpeg.out_color_space = jpeg.num_components == 4 ? JCS_CMYK : JCS_RGB;
  // As Pillow: the accurate transform, whose result does not depend on the processor.
  jpeg.dct_method = JDCT_ISLOW;
  jpeg.do_fancy_upsampling = TRUE;
  if (jpeg_start_decompress(&jpeg) == FALSE) return Outcome::kTruncated;
  const auto width = static_cast<int64_t>(jpeg.output_width);
  const auto channels = static_cast<int>(pixels.size(2));
  const bool is_ready = jpeg.output_components == channels && channels == 3;
  auto* out = pixels.data<uint8_t>();
  while (jpeg.output_scanline < jpeg.output_height) {
    uint8_t* read = is_ready ? out : row;
    if (jpeg_read_scanlines(&jpeg, &read, 1) != 1) return Outcome::kTruncated;
    if (!is_ready) write_row(row, jpeg.output_components, width, channels, out);
    out += width * channels;
  }
  // What follows the last row may be missing, but is looked at.
  jpeg_finish_decompress(&jpeg);
  return Outcome::kDone;
}

void check_outcome(Outcome outcome, const Reader& reader, const DecodeTask& task) {
  if (outcome == Outcome::kTruncated) fail_truncated(task, kName);
  check(outcome != Outcome::kTooManyScans, ErrorCode::kInvalidArgument,
        "{}: the JPEG file has more than {} scans; save it again", task.what, kMostScans);
  check(reader.error != JERR_OUT_OF_MEMORY, ErrorCode::kUnavailable,
        "{}: no memory to decode the JPEG file", task.what);
  if (outcome == Outcome::kRefused) fail_undecodable(task, kName, reader.message);
}

/// Takes EXIF, which may be divided over several markers, and the last XMP.
void take_metadata(const Reader& reader, DecodedImage& image) {
  constexpr std::string_view kExif = "Exif\0\0"sv;
  constexpr std::string_view kXmp = "http://ns.adobe.com/xap/1.0/\0"sv;
  for (auto* marker = reader.jpeg.marker_list; marker != nullptr; marker = marker->next) {
    std::string_view data(reinterpret_cast<const char*>(marker->data), marker->data_length);
    if (data.starts_with(kExif)) image.exif += data.substr(kExif.size());
    if (data.starts_with(kXmp)) image.xmp = data.substr(kXmp.size());
  }
}

}  // namespace

DecodedImage decode_jpeg(const DecodeTask& task) {
  Reader reader;
  check_outcome(read_header(reader, task.file), reader, task);
  const jpeg_decompress_struct& jpeg = reader.jpeg;
  const int components = jpeg.num_components;
  check(components == 1 || components == 3 || components == 4, ErrorCode::kInvalidArgument,
        "{}: the JPEG file has {} components: must be 1 (grey), 3 (colours) or 4 (inks)", task.what,
        components);
  check(jpeg.data_precision == 8, ErrorCode::kInvalidArgument,
        "{}: the JPEG file has {} bits a component: must be 8; save it again", task.what,
        jpeg.data_precision);
  DecodedImage image;
  image.pixels = allocate_pixels(task, jpeg.image_height, jpeg.image_width);
  take_metadata(reader, image);
  std::vector<uint8_t> row(size_t{jpeg.image_width} * 4);
  check_outcome(read_pixels(reader, row.data(), image.pixels), reader, task);
  return image;
}

}  // namespace flux
