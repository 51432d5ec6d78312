#pragma once

#include <functional>
#include <span>

#include "pipeline/schedule.h"
#include "pipeline/stages.h"

namespace flux {

/// What an inpainting keeps of its image: where the mask is 0, latents become those of the image
/// with the noise of the next step's level, after each step. Source: FluxInpaintPipeline.__call__.
struct KeptImage {
  ConstTensor image;  // packed latents as DenoiseImage::latents, without noise, as all of these
  ConstTensor noise;
  ConstTensor mask;  // 0 or 1
};

/// One image on its way from noise to latents.
struct DenoiseImage {
  /// [tokens, in_channels], T, where the stages' context computes: those of the schedule's first
  /// noise level, changed in place.
  Tensor latents;
  Schedule schedule;
  std::optional<float> guidance;  // for models with guidance embeddings
  float true_cfg_scale = 1.0f;    // used when `negative` is there
  const TextEmbeddings* text = nullptr;
  const TextEmbeddings* negative = nullptr;  // true classifier-free guidance, or null
  std::span<const AdapterChoice> adapters;
  std::optional<KeptImage> kept;
  /// [tokens, in_channels], T, where the transformer sees more than the latents: these are copied
  /// into its first columns before each step. Undefined: the latents alone.
  Tensor input;
  std::optional<ImageTokens> reference;  // another image that is attended to
  ConstTensor img_ids;                   // [tokens, 3], f32
  ConstTensor txt_ids;                   // [text tokens, 3], f32
};

/// The listener of a loop.
struct DenoiseObserver {
  /// Called before the first step and after each, with the steps done and those of the longest
  /// schedule; it may throw to stop.
  std::function<void(int done, int total)> on_step;
  /// Given, after every `predict_every` steps (0: never) but the last, the clean latents that the
  /// model predicts for each image, in order: packed, T, where the stages' context computes. Those
  /// of an image that has no steps to go are its own. Nobody writes to them any more.
  std::function<void(int done, std::span<const ConstTensor> predicted)> on_predicted;
  int predict_every = 0;
};

/// The denoise loop: a transformer call and an Euler step for each noise level. All images that
/// still have steps to go share a call; images with fewer steps finish earlier. Sources:
/// FluxPipeline.__call__; FlowMatchEulerDiscreteScheduler.step.
void denoise(Stages& stages, std::span<DenoiseImage> images, const DenoiseObserver& observer);

}  // namespace flux
