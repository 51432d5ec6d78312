#include "image/webp.h"

#include <webp/encode.h>
#include <webp/mux.h>

#include <memory>

#include "image/exif.h"
#include "support/error.h"

namespace flux {
namespace {

struct FreeWebp {
  void operator()(uint8_t* data) const { WebPFree(data); }
};

/// `file` with an EXIF chunk.
std::string with_exif(const WebPData& file, const std::string& exif) {
  const std::unique_ptr<WebPMux, decltype(&WebPMuxDelete)> mux(WebPMuxCreate(&file, 0),
                                                               &WebPMuxDelete);
  const WebPData chunk{reinterpret_cast<const uint8_t*>(exif.data()), exif.size()};
  WebPData whole{};
  const bool made = mux != nullptr &&
                    WebPMuxSetChunk(mux.get(), "EXIF", &chunk, 1) == WEBP_MUX_OK &&
                    WebPMuxAssemble(mux.get(), &whole) == WEBP_MUX_OK;
  const std::unique_ptr<uint8_t, FreeWebp> owner(const_cast<uint8_t*>(whole.bytes));
  check(made, ErrorCode::kInternal, "WebP: libwebpmux refuses the metadata");
  return {reinterpret_cast<const char*>(whole.bytes), whole.size};
}

}  // namespace

std::string encode_webp(const ConstTensor& pixels, int quality, std::string_view comment) {
  const auto height = static_cast<int>(pixels.size(0));
  const auto width = static_cast<int>(pixels.size(1));
  uint8_t* data = nullptr;
  const size_t size = WebPEncodeRGB(pixels.data<uint8_t>(), width, height, 3 * width,
                                    static_cast<float>(quality), &data);
  const std::unique_ptr<uint8_t, FreeWebp> owner(data);
  check(size > 0, ErrorCode::kInternal, "WebP: libwebp refuses an image of {} x {} pixels", height,
        width);
  if (comment.empty()) return {reinterpret_cast<const char*>(data), size};
  return with_exif({data, size}, exif_with_comment(comment));
}

}  // namespace flux
