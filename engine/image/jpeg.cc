#include "image/jpeg.h"

#include <cstdio>
// jpeglib.h needs what cstdio declares.
#include <jpeglib.h>

#include <csetjmp>
#include <cstdlib>

#include "image/exif.h"
#include "support/error.h"
#include "support/utf8.h"

namespace flux {
namespace {

constexpr int kFullColourQuality = 90;
constexpr size_t kMostComment = 30'000;  // bytes; a marker of JPEG holds 65,533, two for each

struct Writer {
  jpeg_compress_struct jpeg{};
  jpeg_error_mgr errors{};
  std::jmp_buf jump{};
  char message[JMSG_LENGTH_MAX] = {};
  unsigned char* data = nullptr;  // libjpeg's, by malloc
  unsigned long size = 0;         // NOLINT(google-runtime-int): libjpeg's type

  Writer() = default;
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  ~Writer() {
    jpeg_destroy_compress(&jpeg);
    std::free(data);
  }
};

// Called by libjpeg, which is C: nothing may be thrown through it.
void on_error(j_common_ptr info) {
  auto* writer = static_cast<Writer*>(info->client_data);
  info->err->format_message(info, writer->message);
  std::longjmp(writer->jump, 1);
}

void on_message(j_common_ptr) {}

/// No object with a destructor lives in here: longjmp passes over it.
bool write_image(Writer& writer, const ConstTensor& pixels, int quality, const std::string& exif) {
  jpeg_compress_struct& jpeg = writer.jpeg;
  jpeg.err = jpeg_std_error(&writer.errors);
  writer.errors.error_exit = on_error;
  writer.errors.output_message = on_message;
  jpeg.client_data = &writer;
  if (setjmp(writer.jump) != 0) return false;
  jpeg_create_compress(&jpeg);
  jpeg_mem_dest(&jpeg, &writer.data, &writer.size);
  jpeg.image_height = static_cast<JDIMENSION>(pixels.size(0));
  jpeg.image_width = static_cast<JDIMENSION>(pixels.size(1));
  jpeg.input_components = 3;
  jpeg.in_color_space = JCS_RGB;
  jpeg_set_defaults(&jpeg);
  jpeg_set_quality(&jpeg, quality, TRUE);
  // The accurate integer transform: its result does not depend on the processor.
  jpeg.dct_method = JDCT_ISLOW;
  if (quality >= kFullColourQuality) {
    jpeg.comp_info[0].h_samp_factor = 1;
    jpeg.comp_info[0].v_samp_factor = 1;
  }
  jpeg_start_compress(&jpeg, TRUE);
  if (!exif.empty()) {
    jpeg_write_marker(&jpeg, JPEG_APP0 + 1, reinterpret_cast<const JOCTET*>(exif.data()),
                      static_cast<unsigned>(exif.size()));
  }
  while (jpeg.next_scanline < jpeg.image_height) {
    auto* row = const_cast<JSAMPLE*>(pixels.data<JSAMPLE>()) +
                size_t{jpeg.next_scanline} * jpeg.image_width * 3;
    jpeg_write_scanlines(&jpeg, &row, 1);
  }
  jpeg_finish_compress(&jpeg);
  return true;
}

}  // namespace

std::string encode_jpeg(const ConstTensor& pixels, int quality, std::string_view comment) {
  std::string exif;
  if (!comment.empty())
    exif = std::string("Exif\0\0", 6) + exif_with_comment(first_bytes(comment, kMostComment));
  Writer writer;
  const bool written = write_image(writer, pixels, quality, exif);
  check(written, ErrorCode::kInternal, "JPEG: libjpeg refuses the image: {}",
        static_cast<const char*>(writer.message));
  return {reinterpret_cast<const char*>(writer.data), writer.size};
}

}  // namespace flux
