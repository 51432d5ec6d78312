#include "pipeline/latents.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "support/error.h"
#include "support/integer.h"
#include "tensor/format.h"

namespace flux {
namespace {

/// Applies `function` with a value of the element type of `dtype`.
template <typename Function>
void for_element_type(DType dtype, Function&& function) {
  switch (dtype) {
    case DType::kF32:
      return function(float{});
    case DType::kBF16:
      return function(BFloat16{});
    case DType::kF16:
      return function(Float16{});
    default:
      fail(ErrorCode::kInternal, "latents of dtype {}", dtype);
  }
}

/// Random bits that a uniform number of the dtype takes: its mantissa, so that it is exact.
int uniform_bits(DType dtype) { return dtype == DType::kF32 ? 24 : dtype == DType::kF16 ? 11 : 8; }

/// torch's normal_fill, in float with every intermediate rounded to the dtype: numbers are
/// transformed in blocks of 16, pairs 8 apart.
class BlockwiseNormal {
 public:
  BlockwiseNormal(std::mt19937& engine, DType dtype)
      : engine_(engine), dtype_(dtype), bits_(uniform_bits(dtype)) {}

  void fill(std::vector<float>& values) {
    const size_t size = values.size();
    for (float& value : values) value = uniform();
    for (size_t i = 0; i + kBlock <= size; i += kBlock) transform(&values[i]);
    if (size % kBlock != 0) {
      // The last block overlaps the one before and takes new random numbers.
      float* tail = &values[size - kBlock];
      for (size_t i = 0; i < kBlock; ++i) tail[i] = uniform();
      transform(tail);
    }
  }

  static constexpr size_t kBlock = 16;

 private:
  float uniform() {
    const uint32_t mask = (uint32_t{1} << bits_) - 1;
    return static_cast<float>(engine_() & mask) / static_cast<float>(uint32_t{1} << bits_);
  }
  float rounded(float value) const { return round_to(dtype_, value); }

  void transform(float* block) const {
    constexpr size_t kHalf = kBlock / 2;
    for (size_t i = 0; i < kHalf; ++i) {
      const float u1 = rounded(1.0f - block[i]);
      const float u2 = block[i + kHalf];
      const float logarithm = rounded(std::log(u1));
      const float radius = rounded(std::sqrt(rounded(-2.0f * logarithm)));
      const float theta = rounded(angle(u2));
      block[i] = rounded(radius * rounded(std::cos(theta)));
      block[i + kHalf] = rounded(radius * rounded(std::sin(theta)));
    }
  }

  float angle(float u2) const {
    constexpr double kTwoPi = 2.0 * std::numbers::pi;
    if (dtype_ == DType::kF32) return static_cast<float>(kTwoPi) * u2;
    return static_cast<float>(kTwoPi * static_cast<double>(u2));
  }

  std::mt19937& engine_;
  DType dtype_;
  int bits_;
};

/// Index of a latent in its packed form.
int64_t packed_index(const LatentSize& size, int64_t channel, int64_t y, int64_t x) {
  const int64_t token = (y / 2) * size.token_columns() + x / 2;
  return (token * size.channels + channel) * 4 + (y % 2) * 2 + x % 2;
}

/// Calls visit(plain index, packed index) for every latent.
template <typename Visit>
void for_each_latent(const LatentSize& size, Visit&& visit) {
  int64_t plain = 0;
  for (int64_t c = 0; c < size.channels; ++c) {
    for (int64_t y = 0; y < size.height; ++y) {
      for (int64_t x = 0; x < size.width; ++x) visit(plain++, packed_index(size, c, y, x));
    }
  }
}

}  // namespace

LatentSize latent_size(const FluxConfig& config, int64_t height, int64_t width) {
  const int64_t multiple = config.size_multiple();
  return {config.vae.latent_channels, 2 * (height / multiple), 2 * (width / multiple)};
}

/// torch's normal_distribution<double>, which it uses for fewer than 16 numbers.
void NoiseGenerator::fill_scalar_normal(std::vector<float>& values) {
  const auto uniform = [&] {
    const uint64_t high = engine_();
    const uint64_t word = (high << 32) | engine_();
    return static_cast<double>(word & ((uint64_t{1} << 53) - 1)) * 0x1p-53;
  };
  for (float& value : values) {
    if (spare_) {
      value = static_cast<float>(*std::exchange(spare_, std::nullopt));
      continue;
    }
    const double u1 = uniform();
    const double u2 = uniform();
    const double radius = std::sqrt(-2.0 * std::log1p(-u2));
    const double theta = 2.0 * std::numbers::pi * u1;
    value = static_cast<float>(radius * std::cos(theta));
    spare_ = radius * std::sin(theta);
  }
}

Tensor NoiseGenerator::draw(const Shape& shape, DType dtype) {
  std::vector<float> values(static_cast<size_t>(shape.numel()));
  if (values.size() >= BlockwiseNormal::kBlock) {
    BlockwiseNormal(engine_, dtype).fill(values);
  } else {
    fill_scalar_normal(values);
  }
  return to_dtype(Tensor(values.data(), DType::kF32, shape), dtype);
}

Tensor draw_noise(uint64_t seed, const Shape& shape, DType dtype) {
  return NoiseGenerator(seed).draw(shape, dtype);
}

Tensor pack_latents(const ConstTensor& latents) {
  const LatentSize size{latents.size(0), latents.size(1), latents.size(2)};
  Tensor packed = Tensor::allocate({size.tokens(), 4 * size.channels}, latents.dtype());
  for_element_type(latents.dtype(), [&](auto element) {
    using Element = decltype(element);
    for_each_latent(size, [&](int64_t plain, int64_t at) {
      packed.data<Element>()[at] = latents.data<Element>()[plain];
    });
  });
  return packed;
}

Tensor scale_latents(const ConstTensor& latents, const VaeConfig& config) {
  const DType dtype = latents.dtype();
  const float shift = round_to(dtype, config.shift_factor);  // see unpack_latents()
  const Tensor scaled = to_dtype(latents, DType::kF32);
  auto* values = scaled.data<float>();
  for (int64_t i = 0; i < scaled.numel(); ++i) {
    values[i] = round_to(dtype, values[i] - shift) * config.scaling_factor;
  }
  return to_dtype(scaled, dtype);
}

Tensor unpack_latents(Context& ctx, const ConstTensor& packed, const LatentSize& size,
                      const VaeConfig& config) {
  const DType dtype = packed.dtype();
  const Tensor latents = pooled_tensor(ctx, {size.channels, size.height, size.width}, dtype);
  // A python number added to a tensor is first rounded to the tensor's dtype; a factor is not.
  unpack_tokens(ctx, to_device(ctx, packed), config.scaling_factor,
                round_to(dtype, config.shift_factor), latents);
  return latents;
}

Tensor unpack_reduced(Context& ctx, const ConstTensor& packed, const LatentSize& size,
                      const VaeConfig& config, int64_t factor) {
  const Tensor values = to_dtype(to_host(ctx, packed), DType::kF32);
  const int64_t rows = ceil_div(size.height, factor);
  const int64_t columns = ceil_div(size.width, factor);
  const Tensor reduced = Tensor::allocate({size.channels, rows, columns}, DType::kF32);
  const auto* from = values.data<float>();
  auto* to = reduced.data<float>();
  for (int64_t channel = 0; channel < size.channels; ++channel) {
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t bottom = std::min((row + 1) * factor, size.height);
      for (int64_t column = 0; column < columns; ++column) {
        const int64_t right = std::min((column + 1) * factor, size.width);
        float sum = 0;
        for (int64_t y = row * factor; y < bottom; ++y) {
          for (int64_t x = column * factor; x < right; ++x) {
            sum += from[packed_index(size, channel, y, x)];
          }
        }
        const auto count = static_cast<float>((bottom - row * factor) * (right - column * factor));
        *to++ = sum / count / config.scaling_factor + config.shift_factor;
      }
    }
  }
  return to_device(ctx, to_dtype(reduced, packed.dtype()));
}

int64_t reduction_to(const LatentSize& size, const VaeConfig& config, int64_t pixels) {
  const int64_t most = std::max<int64_t>(1, pixels / config.scale_factor());
  return ceil_div(std::max(size.height, size.width), most);
}

Tensor make_image_ids(const LatentSize& size) {
  Tensor ids = Tensor::allocate({size.tokens(), 3}, DType::kF32);
  auto* id = ids.data<float>();
  for (int64_t row = 0; row < size.token_rows(); ++row) {
    for (int64_t column = 0; column < size.token_columns(); ++column) {
      *id++ = 0.0f;
      *id++ = static_cast<float>(row);
      *id++ = static_cast<float>(column);
    }
  }
  return ids;
}

Tensor make_text_ids(int64_t tokens) {
  Tensor ids = Tensor::allocate({tokens, 3}, DType::kF32);
  std::fill_n(ids.data<float>(), ids.numel(), 0.0f);
  return ids;
}

ConstTensor to_pixels(Context& ctx, const ConstTensor& image) {
  const Tensor pixels = pooled_tensor(ctx, {image.size(1), image.size(2), 3}, DType::kU8);
  to_bytes(ctx, to_device(ctx, image), pixels);
  return to_host(ctx, pixels);
}

bool all_finite(const ConstTensor& tensor) {
  const bool plain = tensor.dtype() == DType::kF32 && tensor.is_contiguous();
  const ConstTensor values = plain ? tensor : ConstTensor(to_dtype(tensor, DType::kF32));
  const auto* data = values.data<float>();
  for (int64_t i = 0; i < values.numel(); ++i) {
    if (!std::isfinite(data[i])) return false;
  }
  return true;
}

}  // namespace flux
