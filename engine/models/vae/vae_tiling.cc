#include "models/vae/vae_tiling.h"

#include <algorithm>
#include <functional>
#include <vector>

namespace flux {
namespace {

/// In latents. A fraction of 1 / kOverlapPart of a tile overlaps the one before.
struct Tiles {
  static constexpr int64_t kOverlapPart = 4;

  explicit Tiles(const VaeConfig& config)
      : side(std::max<int64_t>(1, config.sample_size / config.scale_factor() / kOverlapPart) *
             kOverlapPart),
        step(side - side / kOverlapPart) {}

  int64_t side;
  int64_t step;  // between the beginnings of tiles
};

/// How many pixels of an image a latent is along a side: 1 where the image is latents.
struct Scale {
  int64_t source;
  int64_t result;
};

/// Computes a tile, f32, of a part of the source.
using TileRun = std::function<void(const ConstTensor& part, const Tensor& tile)>;

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

/// source: [channels, h, w]; result: [channels, h', w'], both in host memory.
void run_in_tiles(const Tiles& tiles, Scale scale, const ConstTensor& source, const Tensor& result,
                  const TileRun& run) {
  const int64_t height = source.size(1) / scale.source;
  const int64_t width = source.size(2) / scale.source;
  const int64_t side = tiles.side * scale.source;
  const int64_t overlap = (tiles.side - tiles.step) * scale.result;
  const int64_t limit = tiles.step * scale.result;
  std::vector<Tensor> above;
  for (int64_t y = 0; y < height; y += tiles.step) {
    std::vector<Tensor> row;
    for (int64_t x = 0; x < width; x += tiles.step) {
      const Tensor part =
          to_dtype(part_of(source, y * scale.source, x * scale.source, side, side), source.dtype());
      const Tensor tile =
          Tensor::allocate({result.size(0), part.size(1) / scale.source * scale.result,
                            part.size(2) / scale.source * scale.result},
                           DType::kF32);
      run(part, tile);
      if (!above.empty()) blend_with_above(above[row.size()], tile, overlap);
      if (!row.empty()) blend_with_left(row.back(), tile, overlap);
      const Tensor final = part_of(tile, 0, 0, limit, limit);  // no later tile changes it
      copy_convert(final, part_of(result, y * scale.result, x * scale.result, limit, limit));
      row.push_back(tile);
    }
    above = std::move(row);
  }
}

}  // namespace

void encode_in_tiles(Context& ctx, const VaeEncoder& vae, const ConstTensor& image,
                     const Tensor& moments) {
  const Scale scale{.source = vae.config().scale_factor(), .result = 1};
  run_in_tiles(Tiles(vae.config()), scale, to_host(ctx, image), moments,
               [&](const ConstTensor& part, const Tensor& tile) {
                 const Tensor typed = Tensor::allocate(tile.shape(), vae.dtype());
                 vae.forward(ctx, part, typed);
                 copy_convert(typed, tile);
               });
}

void decode_in_tiles(Context& ctx, const VaeDecoder& vae, const ConstTensor& latents,
                     const Tensor& out) {
  const Scale scale{.source = 1, .result = vae.config().scale_factor()};
  const Tensor image = out.device().is_cpu() ? out : Tensor::allocate(out.shape(), DType::kF32);
  run_in_tiles(Tiles(vae.config()), scale, to_host(ctx, latents), image,
               [&](const ConstTensor& part, const Tensor& tile) { vae.forward(ctx, part, tile); });
  copy(ctx, image, out);
}

int64_t tile_side(const VaeConfig& config) { return Tiles(config).side * config.scale_factor(); }

}  // namespace flux
