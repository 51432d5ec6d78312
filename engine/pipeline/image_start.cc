#include "pipeline/image_start.h"

#include "pipeline/image_processor.h"
#include "pipeline/kontext.h"
#include "pipeline/stage_results.h"
#include "tensor/format.h"

namespace flux {
namespace {

/// FluxPipeline: noise, or the row's latents.
std::vector<ImageStart> start_from_noise(const StartContext& start) {
  std::vector<ImageStart> starts;
  for (int j = 0; j < start.row.num_images_per_prompt; ++j) {
    starts.push_back({start.row.latents.defined()
                          ? to_device(start.ctx(), to_dtype(start.row.latents[j], start.dtype))
                          : start.noise(j, 0)});
  }
  return starts;
}

}  // namespace

std::vector<PosteriorDraw> StartContext::draws(int skipped) const {
  std::vector<PosteriorDraw> all;
  for (int j = 0; j < row.num_images_per_prompt; ++j) all.push_back({row.seed_of(j), skipped});
  return all;
}

Tensor StartContext::noise(int j, int skipped) const {
  const LatentSize latents = size();
  const Shape shape{latents.channels, latents.height, latents.width};
  NoiseGenerator generator(row.seed_of(j));
  for (int i = 0; i < skipped; ++i) generator.draw(shape, dtype);
  return to_device(ctx(), pack_latents(generator.draw(shape, dtype)));
}

std::vector<Tensor> StartContext::encode(const ConstTensor& image,
                                         std::span<const PosteriorDraw> posterior_draws) const {
  std::vector<Tensor> packed;
  for (const Tensor& latents : stages.encode_image(image, posterior_draws)) {
    const int64_t factor = config.vae.scale_factor();
    const Shape expected{config.vae.latent_channels, image.size(1) / factor,
                         image.size(2) / factor};
    check(latents.shape() == expected && latents.dtype() == dtype, ErrorCode::kInternal,
          "{} gives latents as {}, expected {} of {}", name_of(StageKind::kVaeEncoder), latents,
          expected, dtype);
    check_result(name_of(StageKind::kVaeEncoder), "latents", latents);
    packed.push_back(to_device(ctx(), pack_latents(scale_latents(latents, config.vae))));
  }
  return packed;
}

Tensor StartContext::pixels(int64_t height, int64_t width) const {
  return preprocess_image(checked_pixels("image", row.image, 3), height, width, ctx().threads());
}

Tensor StartContext::mask() const {
  return preprocess_mask(checked_pixels("mask", row.mask, 1), row.height, row.width,
                         ctx().threads());
}

Tensor StartContext::input_of(const Tensor& latents, std::span<const ConstTensor> more) const {
  const Tensor input =
      pooled_tensor(ctx(), {latents.size(0), config.transformer.in_channels}, dtype);
  int64_t end = latents.size(1);
  for (const ConstTensor& part : more) {
    cast(ctx(), part, input.slice(1, end, end + part.size(1)));
    end += part.size(1);
  }
  return input;
}

int64_t image_tokens(const FluxConfig& config, const ImageParams& row) {
  int64_t tokens = latent_size(config, row.height, row.width).tokens();
  if (config.kind == PipelineKind::kKontext && row.image) {
    const ImageSize reference =
        kontext_reference_size({row.image.height, row.image.width}, config.size_multiple());
    tokens += latent_size(config, reference.height, reference.width).tokens();
  }
  return tokens;
}

std::vector<ImageStart> start_images(const StartContext& start) {
  if (!start.row.image) return start_from_noise(start);
  switch (start.config.kind) {
    case PipelineKind::kFlux:
      return start_image_to_image(start);
    case PipelineKind::kKontext:
      return start_kontext(start);
    case PipelineKind::kFill:
      return start_fill(start);
    case PipelineKind::kControl:
      return start_control(start);
  }
  fail(ErrorCode::kInternal, "a kind of pipeline that starts nowhere");
}

}  // namespace flux
