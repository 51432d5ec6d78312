#include "pipeline/image_processor.h"

#include <array>

#include "image/decode.h"
#include "image/resize.h"
#include "support/error.h"
#include "tensor/format.h"

namespace flux {
namespace {

/// A byte in [-1, 1], rounded after each step as diffusers' arrays and tensors are.
std::array<float, 256> make_levels() {
  std::array<float, 256> levels{};
  for (size_t i = 0; i < levels.size(); ++i) {
    const float share = static_cast<float>(i) / 255.0f;
    levels[i] = 2.0f * share - 1.0f;
  }
  return levels;
}

}  // namespace

Tensor preprocess_image(const ConstTensor& pixels, int64_t height, int64_t width, int threads) {
  check(pixels.rank() == 3, ErrorCode::kInternal,
        "an image's pixels are {}, u8[height, width, 3] is expected", pixels);
  static const std::array<float, 256> levels = make_levels();
  const Tensor resized = resize_lanczos(pixels, height, width, threads);
  const Tensor image = Tensor::allocate({3, height, width}, DType::kF32);
  const auto* in = resized.data<uint8_t>();
  auto* out = image.data<float>();
  const int64_t plane = height * width;
  for (int64_t i = 0; i < plane; ++i) {
    for (int64_t c = 0; c < 3; ++c) out[c * plane + i] = levels[in[3 * i + c]];
  }
  return image;
}

Tensor preprocess_mask(const ConstTensor& pixels, int64_t height, int64_t width, int threads) {
  const Tensor resized = resize_lanczos(pixels, height, width, threads);
  const Tensor grey = resized.rank() == 3 ? to_grey(resized) : resized;
  const Tensor mask = Tensor::allocate({1, height, width}, DType::kF32);
  const auto* in = grey.data<uint8_t>();
  auto* out = mask.data<float>();
  // 127 / 255 is below 0.5, 128 / 255 is not.
  for (int64_t i = 0; i < mask.numel(); ++i) out[i] = in[i] < 128 ? 0.0f : 1.0f;
  return mask;
}

}  // namespace flux
