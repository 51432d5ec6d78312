#include "image/resize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <vector>

#include "ops/cpu/parallel.h"
#include "support/error.h"
#include "tensor/format.h"

// Compiled without fused products and sums: the weights are Pillow's to the last bit.
namespace flux {
namespace {

constexpr double kLobes = 3.0;  // of Lanczos's filter, to each side
// Weights are whole numbers: 8 bits are the pixel's, 2 are for sums below 0 and above 1.
constexpr int kPrecisionBits = 32 - 8 - 2;

double sinc(double x) {
  if (x == 0.0) return 1.0;
  x = x * std::numbers::pi;
  return std::sin(x) / x;
}

double lanczos(double x) { return -kLobes <= x && x < kLobes ? sinc(x) * sinc(x / kLobes) : 0.0; }

/// The nearest whole number of one that is not below -0.5; of others one below 1.
int64_t nearest(double place) { return static_cast<int64_t>(std::trunc(place + 0.5)); }

/// What the pixels along one axis of the result are made of.
struct Weights {
  struct Span {
    int64_t begin = 0;  // the first pixel of the image
    int64_t count = 0;
  };
  std::vector<Span> spans;  // one a pixel of the result
  std::vector<int32_t> values;
  int64_t stride = 0;  // between two pixels' first values

  const int32_t* of(int64_t i) const { return values.data() + i * stride; }
};

/// Source: Pillow's precompute_coeffs and normalize_coeffs_8bpc.
Weights make_weights(int64_t from_size, float begin, float end, int64_t size) {
  const double scale = static_cast<double>(end - begin) / static_cast<double>(size);
  const double filter_scale = std::max(scale, 1.0);
  const double support = kLobes * filter_scale;
  const double inverse = 1.0 / filter_scale;
  Weights weights;
  weights.stride = static_cast<int64_t>(std::ceil(support)) * 2 + 1;
  weights.spans.resize(static_cast<size_t>(size));
  weights.values.assign(static_cast<size_t>(size * weights.stride), 0);
  std::vector<double> exact(static_cast<size_t>(weights.stride));
  for (int64_t i = 0; i < size; ++i) {
    const double center = begin + (static_cast<double>(i) + 0.5) * scale;
    const int64_t first = std::max<int64_t>(nearest(center - support), 0);
    const int64_t last = std::min<int64_t>(nearest(center + support), from_size);
    const int64_t count = last - first;
    double sum = 0.0;
    for (int64_t k = 0; k < count; ++k) {
      const double weight = lanczos((static_cast<double>(k + first) - center + 0.5) * inverse);
      exact[static_cast<size_t>(k)] = weight;
      sum += weight;
    }
    int32_t* values = weights.values.data() + i * weights.stride;
    for (int64_t k = 0; k < count; ++k) {
      double weight = exact[static_cast<size_t>(k)];
      if (sum != 0.0) weight /= sum;
      const double scaled = weight * (1 << kPrecisionBits);
      values[k] = static_cast<int32_t>(weight < 0 ? -0.5 + scaled : 0.5 + scaled);
    }
    weights.spans[static_cast<size_t>(i)] = {first, count};
  }
  return weights;
}

uint8_t to_byte(int32_t sum) {
  return static_cast<uint8_t>(std::clamp(sum >> kPrecisionBits, 0, 255));
}

constexpr int32_t kHalf = 1 << (kPrecisionBits - 1);

template <int channels>
void resize_row(const uint8_t* in, const Weights& weights, int64_t width, uint8_t* out) {
  for (int64_t x = 0; x < width; ++x, out += channels) {
    const auto [begin, count] = weights.spans[static_cast<size_t>(x)];
    const int32_t* weight = weights.of(x);
    const uint8_t* pixel = in + begin * channels;
    int32_t sums[channels];
    std::fill_n(sums, channels, kHalf);
    for (int64_t k = 0; k < count; ++k, pixel += channels) {
      for (int c = 0; c < channels; ++c) sums[c] += pixel[c] * weight[k];
    }
    for (int c = 0; c < channels; ++c) out[c] = to_byte(sums[c]);
  }
}

/// An image of bytes, of any number of channels.
struct View {
  const uint8_t* data;
  int64_t height, width, channels;

  const uint8_t* row(int64_t y) const { return data + y * width * channels; }
};

/// Rows [first, first + height) of `in`, each resized to `width` pixels.
void resize_across(const View& in, int64_t first, const Weights& weights, int64_t height,
                   int64_t width, int threads, uint8_t* out) {
  cpu::parallel_for(threads, height, [&](int64_t y) {
    uint8_t* row = out + y * width * in.channels;
    if (in.channels == 3) {
      resize_row<3>(in.row(first + y), weights, width, row);
    } else {
      resize_row<1>(in.row(first + y), weights, width, row);
    }
  });
}

/// `height` rows of the rows of `in`; the first of these is row `first` of what weights are for.
void resize_down(const View& in, int64_t first, const Weights& weights, int64_t height, int threads,
                 uint8_t* out) {
  constexpr int64_t kBlock = 1024;  // bytes of a row whose sums stay in the nearest cache
  const int64_t bytes = in.width * in.channels;
  cpu::parallel_for(threads, height, [&](int64_t y) {
    const auto [begin, count] = weights.spans[static_cast<size_t>(y)];
    const int32_t* weight = weights.of(y);
    for (int64_t at = 0; at < bytes; at += kBlock) {
      const int64_t size = std::min(kBlock, bytes - at);
      int32_t sums[kBlock];
      std::fill_n(sums, size, kHalf);
      for (int64_t k = 0; k < count; ++k) {
        const uint8_t* row = in.row(begin + k - first) + at;
        for (int64_t i = 0; i < size; ++i) sums[i] += row[i] * weight[k];
      }
      for (int64_t i = 0; i < size; ++i) out[y * bytes + at + i] = to_byte(sums[i]);
    }
  });
}

void check_pixels(const ConstTensor& image) {
  const bool fits = image.rank() == 2 || (image.rank() == 3 && image.size(2) == 3);
  check(fits && image.dtype() == DType::kU8 && image.is_contiguous() && image.device().is_cpu() &&
            image.numel() > 0,
        ErrorCode::kInternal,
        "an image's pixels are {}, u8[height, width] or u8[height, width, 3] is expected", image);
}

void check_size(int64_t height, int64_t width) {
  check(height >= 1 && width >= 1 && height <= INT32_MAX && width <= INT32_MAX,
        ErrorCode::kInvalidArgument,
        "an image cannot be resized to {}x{}: a side must be 1 or more", width, height);
}

}  // namespace

Tensor resize_lanczos(const ConstTensor& image, int64_t height, int64_t width, int threads,
                      const std::optional<ImageBox>& box) {
  check_pixels(image);
  check_size(height, width);
  const View in{image.data<uint8_t>(), image.size(0), image.size(1),
                image.rank() == 3 ? image.size(2) : 1};
  const auto in_height = static_cast<float>(in.height);
  const auto in_width = static_cast<float>(in.width);
  const ImageBox part = box.value_or(ImageBox{0, 0, in_width, in_height});
  check(part.left >= 0 && part.top >= 0 && part.right <= in_width && part.bottom <= in_height &&
            part.left <= part.right && part.top <= part.bottom,
        ErrorCode::kInvalidArgument,
        "the part from {}, {} to {}, {} is not within an image of {}x{} pixels", part.left,
        part.top, part.right, part.bottom, in.width, in.height);
  Shape shape = image.shape();
  shape[0] = height;
  shape[1] = width;
  const Tensor result = Tensor::allocate(shape, DType::kU8);
  auto* out = result.data<uint8_t>();

  const bool across = width != in.width || part.left != 0 || part.right != in_width;
  const bool down = height != in.height || part.top != 0 || part.bottom != in_height;
  if (!across && !down) {
    std::copy_n(in.data, image.numel(), out);
    return result;
  }
  if (!down) {
    resize_across(in, 0, make_weights(in.width, part.left, part.right, width), height, width,
                  threads, out);
    return result;
  }
  const Weights rows = make_weights(in.height, part.top, part.bottom, height);
  if (!across) {
    resize_down(in, 0, rows, height, threads, out);
    return result;
  }
  const Weights columns = make_weights(in.width, part.left, part.right, width);
  // As Pillow: first down where that leaves much less for the other pass. The order shows in bytes.
  const int64_t fewer_rows = in.height - height;
  if (fewer_rows > 0 && fewer_rows > (in.width - width) * 2) {
    const Tensor between = Tensor::allocate({height, in.width, in.channels}, DType::kU8);
    resize_down(in, 0, rows, height, threads, between.data<uint8_t>());
    resize_across({between.data<uint8_t>(), height, in.width, in.channels}, 0, columns, height,
                  width, threads, out);
    return result;
  }
  // Only the rows that the second pass uses.
  const int64_t first = rows.spans.front().begin;
  const int64_t used = rows.spans.back().begin + rows.spans.back().count - first;
  const Tensor between = Tensor::allocate({used, width, in.channels}, DType::kU8);
  resize_across(in, first, columns, used, width, threads, between.data<uint8_t>());
  resize_down({between.data<uint8_t>(), used, width, in.channels}, first, rows, height, threads,
              out);
  return result;
}

Tensor resize_nearest(const ConstTensor& values, int64_t height, int64_t width) {
  check(values.rank() >= 2 && values.is_contiguous() && values.device().is_cpu() &&
            values.numel() > 0,
        ErrorCode::kInternal, "values to resize are {}, [..., rows, columns] is expected", values);
  check_size(height, width);
  const int64_t rows = values.size(-2);
  const int64_t columns = values.size(-1);
  const auto size = static_cast<int64_t>(size_of(values.dtype()));
  Shape shape = values.shape();
  shape[values.rank() - 2] = height;
  shape[values.rank() - 1] = width;
  const Tensor result = Tensor::allocate(shape, values.dtype());
  // In float, as torch's nearest_idx.
  const auto place = [](int64_t at, int64_t from, int64_t to) {
    const float scale = static_cast<float>(from) / static_cast<float>(to);
    return std::min(static_cast<int64_t>(std::floor(static_cast<float>(at) * scale)), from - 1);
  };
  const auto* in = static_cast<const std::byte*>(values.raw());
  auto* out = static_cast<std::byte*>(result.raw());
  for (int64_t plane = 0; plane < values.numel() / (rows * columns); ++plane) {
    for (int64_t y = 0; y < height; ++y) {
      const std::byte* row = in + (plane * rows + place(y, rows, height)) * columns * size;
      for (int64_t x = 0; x < width; ++x, out += size) {
        std::memcpy(out, row + place(x, columns, width) * size, static_cast<size_t>(size));
      }
    }
  }
  return result;
}

}  // namespace flux
