#pragma once

#include <optional>
#include <vector>

#include "pipeline/denoise.h"
#include "pipeline/flux_config.h"
#include "pipeline/latents.h"
#include "pipeline/request.h"

/// Where the loop of each image begins, and what it looks at on its way: what kinds of pipelines
/// differ in.
namespace flux {

/// Where the loop of one image begins; all as DenoiseImage has it.
struct ImageStart {
  Tensor latents;
  std::optional<KeptImage> kept = {};
  Tensor input = {};
  std::optional<ImageTokens> reference = {};
};

/// What the starts of a row's images are made of.
struct StartContext {
  Stages& stages;
  const FluxConfig& config;
  DType dtype;
  const ImageParams& row;
  const Schedule& schedule;  // without the steps that are left out

  Context& ctx() const { return stages.context(); }
  LatentSize size() const { return latent_size(config, row.height, row.width); }

  /// Draws of a generator that has drawn `skipped` tensors of the latents' shape: one for each
  /// image of the row, from its own seed.
  std::vector<PosteriorDraw> draws(int skipped) const;
  /// The noise of image `j` that its generator draws after `skipped` others: packed, where the
  /// context computes.
  Tensor noise(int j, int skipped) const;
  /// An image's latents, packed and scaled, where the context computes: one for each draw, or its
  /// mode where there is none. pixels: [3, H, W], f32, in [-1, 1].
  std::vector<Tensor> encode(const ConstTensor& pixels, std::span<const PosteriorDraw> draws) const;
  /// The row's image, resized to `height` x `width`: [3, height, width], f32, in [-1, 1].
  Tensor pixels(int64_t height, int64_t width) const;
  /// The row's mask at the image's size: [1, height, width], f32, 0 or 1.
  Tensor mask() const;
  /// [tokens, channels of all]: what a transformer takes that sees more than the latents. The
  /// latents' own columns, the first ones, are the loop's to fill.
  Tensor input_of(const Tensor& latents, std::span<const ConstTensor> more) const;
};

/// The tokens of one image of a row in the transformer, those of a reference among them.
int64_t image_tokens(const FluxConfig& config, const ImageParams& row);

/// The starts of all images of a row, as the kind of its pipeline makes them. A row without an
/// image starts from noise, or from its latents.
std::vector<ImageStart> start_images(const StartContext& start);

/// FluxImg2ImgPipeline, and with a mask FluxInpaintPipeline.
std::vector<ImageStart> start_image_to_image(const StartContext& start);
/// FluxKontextPipeline: noise, with the tokens of the row's image beside it.
std::vector<ImageStart> start_kontext(const StartContext& start);
/// FluxFillPipeline: the transformer sees the image without what is masked, and the mask.
std::vector<ImageStart> start_fill(const StartContext& start);
/// FluxControlPipeline: noise; the transformer sees the control image.
std::vector<ImageStart> start_control(const StartContext& start);

}  // namespace flux
