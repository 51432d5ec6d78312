#include "models/vae/vae_tiling.h"

#include <algorithm>

namespace flux {
namespace {

/// In latent pixels. A fraction of 1 / kOverlapPart of a tile overlaps the one before.
struct Tiles {
  static constexpr int64_t kOverlapPart = 4;

  explicit Tiles(const VaeConfig& config)
      : factor(config.scale_factor()),
        side(std::max<int64_t>(1, config.sample_size / factor / kOverlapPart) * kOverlapPart),
        step(side - side / kOverlapPart) {}

  int64_t factor;
  int64_t side;
  int64_t step;  // between the beginnings of tiles
};

/// Rows of a [channels, h, w] tensor in host memory.
float* line(const Tensor& image, int64_t channel, int64_t y) {
  return image.data<float>() + channel * image.stride(0) + y * image.stride(1);
}

/// The part of a [channels, h, w] tensor that begins at (y, x) and ends at the tensor's edge at the
/// latest.
template <typename AnyTensor>
AnyTensor part_of(const AnyTensor& image, int64_t y, int64_t x, int64_t height, int64_t width) {
  return image.slice(1, y, std::min(y + height, image.size(1)))
      .slice(2, x, std::min(x + width, image.size(2)));
}

/// diffusers' blend_v: the last rows of the tile above fade into the first ones of `tile`.
void blend_with_above(const Tensor& above, const Tensor& tile, int64_t overlap) {
  const int64_t rows = std::min({above.size(1), tile.size(1), overlap});
  for (int64_t i = 0; i < tile.size(0) * rows; ++i) {
    const int64_t y = i % rows;
    const float weight = static_cast<float>(y) / static_cast<float>(rows);
    const float* from = line(above, i / rows, above.size(1) - rows + y);
    float* to = line(tile, i / rows, y);
    for (int64_t x = 0; x < tile.size(2); ++x) to[x] = from[x] * (1.0f - weight) + to[x] * weight;
  }
}

/// diffusers' blend_h: likewise the last columns of the tile on the left.
void blend_with_left(const Tensor& left, const Tensor& tile, int64_t overlap) {
  const int64_t columns = std::min({left.size(2), tile.size(2), overlap});
  for (int64_t i = 0; i < tile.size(0) * tile.size(1); ++i) {
    const float* from = line(left, i / tile.size(1), i % tile.size(1)) + left.size(2) - columns;
    float* to = line(tile, i / tile.size(1), i % tile.size(1));
    for (int64_t x = 0; x < columns; ++x) {
      const float weight = static_cast<float>(x) / static_cast<float>(columns);
      to[x] = from[x] * (1.0f - weight) + to[x] * weight;
    }
  }
}

}  // namespace

void decode_in_tiles(Context& ctx, const VaeDecoder& vae, const ConstTensor& latents,
                     const Tensor& out) {
  const Tiles tiles(vae.config());
  const ConstTensor source = to_host(ctx, latents);
  const Tensor image = out.device().is_cpu() ? out : Tensor::allocate(out.shape(), DType::kF32);
  const int64_t height = latents.size(1);
  const int64_t width = latents.size(2);
  const int64_t overlap = (tiles.side - tiles.step) * tiles.factor;
  const int64_t limit = tiles.step * tiles.factor;
  std::vector<Tensor> above;
  for (int64_t y = 0; y < height; y += tiles.step) {
    std::vector<Tensor> row;
    for (int64_t x = 0; x < width; x += tiles.step) {
      const Tensor part = to_dtype(part_of(source, y, x, tiles.side, tiles.side), source.dtype());
      const Tensor tile = Tensor::allocate(
          {out.size(0), part.size(1) * tiles.factor, part.size(2) * tiles.factor}, DType::kF32);
      vae.forward(ctx, part, tile);
      if (!above.empty()) blend_with_above(above[row.size()], tile, overlap);
      if (!row.empty()) blend_with_left(row.back(), tile, overlap);
      const Tensor final = part_of(tile, 0, 0, limit, limit);  // no later tile changes it
      copy_convert(final, part_of(image, y * tiles.factor, x * tiles.factor, limit, limit));
      row.push_back(tile);
    }
    above = std::move(row);
  }
  copy(ctx, image, out);
}

int64_t tile_side(const VaeConfig& config) {
  const Tiles tiles(config);
  return tiles.side * tiles.factor;
}

bool needs_tiles(const VaeConfig& config, const ConstTensor& latents) {
  const Tiles tiles(config);
  return latents.size(1) > tiles.side || latents.size(2) > tiles.side;
}

}  // namespace flux
