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

/// Called before each step of the longest schedule with the steps done and all steps, and once
/// more at the end; it may throw to stop.
using StepWatcher = std::function<void(int done, int total)>;

/// The denoise loop: a transformer call and an Euler step for each noise level. All images that
/// still have steps to go share a call; images with fewer steps finish earlier. Sources:
/// FluxPipeline.__call__; FlowMatchEulerDiscreteScheduler.step.
void denoise(Stages& stages, std::span<DenoiseImage> images, const StepWatcher& watch);

}  // namespace flux
