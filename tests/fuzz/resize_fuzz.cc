// Fuzzes the sizes and parts that images are resized from and to.
// Run by `make fuzz`; the corpus is tests/fuzz/corpus/resize. An input is the numbers of `Sizes`,
// then pixels, which are repeated.

#include <cstring>

#include "fuzz/tokenizer_fuzz.h"
#include "image/resize.h"

namespace {

struct Sizes {
  uint16_t rows, columns;
  int16_t height, width;
  uint8_t channels, has_box;
  uint8_t unused[2];
  flux::ImageBox box;
};

constexpr int kMostOfSide = 100;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Sizes sizes{};
  if (size < sizeof(sizes) + 1) return 0;
  std::memcpy(&sizes, data, sizeof(sizes));
  data += sizeof(sizes);
  size -= sizeof(sizes);
  const int64_t rows = sizes.rows % kMostOfSide + 1;
  const int64_t columns = sizes.columns % kMostOfSide + 1;
  const flux::Shape shape =
      sizes.channels % 2 == 0 ? flux::Shape{rows, columns} : flux::Shape{rows, columns, 3};
  const flux::Tensor image = flux::Tensor::allocate(shape, flux::DType::kU8);
  for (int64_t i = 0; i < image.numel(); ++i) {
    image.data<uint8_t>()[i] = data[static_cast<size_t>(i) % size];
  }
  const int64_t height = sizes.height % kMostOfSide;
  const int64_t width = sizes.width % kMostOfSide;
  std::optional<flux::ImageBox> box;
  if (sizes.has_box % 2 != 0) box = sizes.box;
  flux::fuzz::allow_errors([&] {
    const flux::Tensor one = flux::resize_lanczos(image, height, width, 1, box);
    const flux::Tensor two = flux::resize_lanczos(image, height, width, 2, box);
    if (one.size(0) != height || one.size(1) != width || one.shape() != two.shape()) std::abort();
    if (std::memcmp(one.raw(), two.raw(), static_cast<size_t>(one.bytes())) != 0) std::abort();
  });
  if (shape.rank() == 2) {
    flux::fuzz::allow_errors([&] {
      const flux::Tensor nearest = flux::resize_nearest(image, height, width);
      if (nearest.size(0) != height || nearest.size(1) != width) std::abort();
    });
  }
  return 0;
}
