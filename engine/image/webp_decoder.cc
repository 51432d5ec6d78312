#include <webp/decode.h>
#include <webp/demux.h>

#include <algorithm>
#include <memory>

#include "image/decoder.h"
#include "support/error.h"

namespace flux {
namespace {

constexpr const char* kName = "WebP";

struct DeleteDemuxer {
  void operator()(WebPDemuxer* demuxer) const { WebPDemuxDelete(demuxer); }
};
using Demuxer = std::unique_ptr<WebPDemuxer, DeleteDemuxer>;

/// A frame of the file; it points into the file's bytes.
struct Frame {
  WebPIterator iterator{};

  Frame() = default;
  Frame(const Frame&) = delete;
  Frame& operator=(const Frame&) = delete;
  ~Frame() { WebPDemuxReleaseIterator(&iterator); }
};

Demuxer open_file(const DecodeTask& task, const WebPData& data) {
  WebPDemuxState state = WEBP_DEMUX_PARSE_ERROR;
  Demuxer demuxer(WebPDemuxPartial(&data, &state));
  if (state == WEBP_DEMUX_PARSE_ERROR) fail_undecodable(task, kName, "its chunks do not fit");
  if (state != WEBP_DEMUX_DONE) fail_truncated(task, kName);
  check(demuxer != nullptr, ErrorCode::kUnavailable, "{}: no memory to decode the WebP file",
        task.what);
  return demuxer;
}

std::string chunk_of(const Demuxer& demuxer, const char* name) {
  WebPChunkIterator iterator{};
  std::string bytes;
  if (WebPDemuxGetChunk(demuxer.get(), name, 1, &iterator) != 0) {
    bytes.assign(reinterpret_cast<const char*>(iterator.chunk.bytes), iterator.chunk.size);
  }
  WebPDemuxReleaseChunkIterator(&iterator);
  return bytes;
}

void check_status(VP8StatusCode status, const DecodeTask& task) {
  check(status != VP8_STATUS_OUT_OF_MEMORY, ErrorCode::kUnavailable,
        "{}: no memory to decode the WebP file", task.what);
  if (status == VP8_STATUS_NOT_ENOUGH_DATA) fail_truncated(task, kName);
  if (status != VP8_STATUS_OK) fail_undecodable(task, kName, "its pixels are damaged");
}

/// Decodes a frame into its place in the picture.
void decode_frame(const WebPIterator& frame, const DecodeTask& task, const Tensor& pixels) {
  const int64_t row = pixels.size(1) * task.channels;
  const bool inside = frame.x_offset >= 0 && frame.y_offset >= 0 && frame.width > 0 &&
                      frame.height > 0 && frame.x_offset + frame.width <= pixels.size(1) &&
                      frame.y_offset + frame.height <= pixels.size(0);
  if (!inside) fail_undecodable(task, kName, "a frame lies outside of the picture");
  WebPDecoderConfig config;
  check(WebPInitDecoderConfig(&config) != 0, ErrorCode::kInternal, "libwebp is of another version");
  const int64_t first = frame.y_offset * row + frame.x_offset * task.channels;
  config.output.colorspace = task.channels == 4 ? MODE_RGBA : MODE_RGB;
  config.output.is_external_memory = 1;
  config.output.u.RGBA.rgba = pixels.data<uint8_t>() + first;
  config.output.u.RGBA.stride = static_cast<int>(row);
  config.output.u.RGBA.size = static_cast<size_t>(pixels.bytes() - first);
  check_status(WebPDecode(frame.fragment.bytes, frame.fragment.size, &config), task);
}

}  // namespace

DecodedImage decode_webp(const DecodeTask& task) {
  const WebPData data{reinterpret_cast<const uint8_t*>(task.file.data()), task.file.size()};
  WebPBitstreamFeatures features{};
  check_status(WebPGetFeatures(data.bytes, data.size, &features), task);
  DecodedImage image;
  image.pixels = allocate_pixels(task, features.height, features.width);
  const Demuxer demuxer = open_file(task, data);
  Frame frame;
  const bool is_there = WebPDemuxGetFrame(demuxer.get(), 1, &frame.iterator) != 0;
  if (!is_there || frame.iterator.complete == 0) fail_truncated(task, kName);
  // A first frame need not cover the picture: around it there is nothing.
  std::fill_n(image.pixels.data<uint8_t>(), image.pixels.numel(), uint8_t{0});
  decode_frame(frame.iterator, task, image.pixels);
  if (task.channels == 4 && features.has_alpha == 0) {
    auto* alpha = image.pixels.data<uint8_t>() + 3;
    for (int64_t i = 0; i < image.pixels.numel(); i += 4) alpha[i] = 255;
  }
  image.exif = chunk_of(demuxer, "EXIF");
  image.xmp = chunk_of(demuxer, "XMP ");
  return image;
}

}  // namespace flux
