#include "pipeline/stage_runs.h"

#include <algorithm>
#include <functional>
#include <string_view>

#include "models/vae/vae_tiling.h"

namespace flux {
namespace {

/// The number of rows, at most `limit`, that are computed together: as many as the device gains
/// from, at least one.
size_t rows_together(Context& ctx, std::span<const TransformerInput> rows, size_t limit) {
  const int64_t most = useful_tokens(ctx);
  size_t count = 1;
  int64_t tokens = rows[0].tokens();
  while (count < std::min(limit, rows.size()) && tokens + rows[count].tokens() <= most) {
    tokens += rows[count++].tokens();
  }
  return count;
}

std::vector<Relief> joined(std::vector<Relief> first, Reliefs more) {
  first.insert(first.end(), more.begin(), more.end());
  return first;
}

/// What a VAE does with an image.
struct VaeWork {
  std::string_view done;  // "encoded" or "decoded"
  const VaeConfig& config;
  const ConstTensor& image;  // [3, height, width]
};

/// run(tiled): the work on the whole image or in tiles, which come where memory is short and
/// `before_tiles` do not help; `more` follow.
void run_whole_or_tiled(Context& ctx, const VaeWork& work, Reliefs before_tiles, Reliefs more,
                        const std::function<void(bool tiled)>& run) {
  const int64_t height = work.image.size(1);
  const int64_t width = work.image.size(2);
  bool tiled = false;
  const auto use_tiles = [&] {
    const int64_t side = tile_side(work.config);
    if (tiled || std::max(height, width) <= side) return std::string();
    tiled = true;
    ctx.workspace().release();  // it is of the whole image's size
    return fmt::format("{}x{} pixels are {} in tiles of {}x{}, with faint seams", height, width,
                       work.done, side, side);
  };
  const Relief tiles{use_tiles, LogLevel::kWarning};
  std::vector<Relief> reliefs = joined({before_tiles.begin(), before_tiles.end()}, {&tiles, 1});
  for (const Relief& relief : more) {
    // With more room the whole image may fit.
    reliefs.push_back({[&tiled, &relief] {
                         std::string done = relief.apply();
                         if (!done.empty()) tiled = false;
                         return done;
                       },
                       relief.level});
  }
  if (!more.empty()) reliefs.push_back(tiles);
  with_relief(reliefs, [&] { run(tiled); });
}

}  // namespace

void run_transformer_step(Context& ctx, ConditioningCache& cache,
                          std::vector<TransformerInput> rows, Reliefs more,
                          std::shared_ptr<const Fence>* nearly_done) {
  cache.share(ctx, rows);
  std::span<const TransformerInput> left = rows;
  size_t limit = rows.size();  // of rows at once
  size_t together = 1;         // that were computed last
  bool dropped = false;        // since the last rows were computed
  const auto drop_states = [&] {
    for (TransformerInput& row : rows) row.state = nullptr;
    finish(ctx);
    cache.clear();
  };
  const auto halve = [&] {
    if (together == 1) return std::string();
    limit = together / 2;
    return fmt::format("{} rows of a step are computed {} at a time", together, limit);
  };
  const auto drop = [&] {
    // A step that fails again has scratch memory again: dropping that once more would help nobody.
    const bool any = !dropped && (!cache.empty() || ctx.workspace().reserved_bytes() > 0);
    dropped = true;
    drop_states();
    ctx.workspace().release();
    ctx.memory().release();
    return std::string(any ? "the states of images and scratch memory are dropped" : "");
  };
  const std::vector<Relief> reliefs = joined({{halve, LogLevel::kWarning}, {drop}}, more);
  try {
    with_relief(reliefs, [&] {
      while (!left.empty()) {
        together = rows_together(ctx, left, limit);
        cache.model().forward(ctx, left.first(together), nearly_done);
        left = left.subspan(together);
        dropped = false;
      }
    });
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCancelled) drop_states();  // they may be incomplete
    throw;
  }
}

ConstTensor run_encoder(Context& ctx, const VaeEncoder& vae, const ConstTensor& image,
                        Reliefs before_tiles, Reliefs more) {
  const VaeConfig& config = vae.config();
  const int64_t factor = config.scale_factor();
  const Tensor moments = Tensor::allocate(
      {2 * config.latent_channels, image.size(1) / factor, image.size(2) / factor}, vae.dtype());
  const auto run = [&](bool tiled) {
    if (tiled) return encode_in_tiles(ctx, vae, image, moments);
    vae.forward(ctx, image, moments);
  };
  run_whole_or_tiled(ctx, {"encoded", config, image}, before_tiles, more, run);
  return moments;
}

void run_decoder(Context& ctx, const VaeDecoder& vae, const ConstTensor& latents, const Tensor& out,
                 Reliefs before_tiles, Reliefs more) {
  const auto run = [&](bool tiled) {
    if (tiled) return decode_in_tiles(ctx, vae, latents, out);
    vae.forward(ctx, latents, out);
  };
  run_whole_or_tiled(ctx, {"decoded", vae.config(), out}, before_tiles, more, run);
}

}  // namespace flux
