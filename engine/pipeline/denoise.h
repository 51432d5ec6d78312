#pragma once

#include <functional>
#include <span>

#include "pipeline/schedule.h"
#include "pipeline/stages.h"

namespace flux {

/// One image on its way from noise to latents.
struct DenoiseImage {
  /// [tokens, in_channels], T, where the stages' context computes: noise at first, changed in
  /// place.
  Tensor latents;
  Schedule schedule;
  std::optional<float> guidance;  // for models with guidance embeddings
  float true_cfg_scale = 1.0f;    // used when `negative` is there
  const TextEmbeddings* text = nullptr;
  const TextEmbeddings* negative = nullptr;  // true classifier-free guidance, or null
  ConstTensor img_ids;                       // [tokens, 3], f32
  ConstTensor txt_ids;                       // [text tokens, 3], f32
};

/// The listener of a loop.
struct DenoiseObserver {
  /// Called before the first step and after each, with the steps done and those of the longest
  /// schedule; it may throw to stop.
  std::function<void(int done, int total)> on_step;
  /// Given, after every `predict_every` steps (0: never), the clean latents that the model predicts
  /// for each image that has steps to go: packed, T, where the stages' context computes.
  std::function<void(size_t image, const Tensor& predicted)> on_predicted;
  int predict_every = 0;
};

/// The denoise loop: a transformer call and an Euler step for each noise level. All images that
/// still have steps to go share a call; images with fewer steps finish earlier. Sources:
/// FluxPipeline.__call__; FlowMatchEulerDiscreteScheduler.step.
void denoise(Stages& stages, std::span<DenoiseImage> images, const DenoiseObserver& observer);

}  // namespace flux
