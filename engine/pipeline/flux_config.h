#pragma once

#include <cstdint>
#include <optional>

#include "models/flux1/config.h"
#include "models/text/config.h"
#include "models/vae/config.h"
#include "pipeline/pipeline_kind.h"
#include "pipeline/scheduler_config.h"

namespace flux {

/// The sides of an image in pixels.
struct ImageSize {
  int64_t height = 0;
  int64_t width = 0;
};

/// The configurations of all parts of a FLUX.1 checkpoint.
struct FluxConfig {
  PipelineKind kind = PipelineKind::kFlux;
  ClipConfig clip;
  T5Config t5;
  FluxTransformerConfig transformer;
  VaeConfig vae;
  SchedulerConfig scheduler;
  /// The checkpoint's own default size; nothing: diffusers' (limits_for() of request.h).
  std::optional<ImageSize> default_size;

  /// Channels of the transformer's input: a token's latents, and what else its kind sees.
  int64_t input_channels() const {
    const PipelineKindInfo& info = info_of(kind);
    const int64_t seen = info.sees_mask ? 4 * vae.scale_factor() * vae.scale_factor() : 0;
    return 4 * vae.latent_channels * (info.sees_image ? 2 : 1) + seen;
  }
  /// Heights and widths are multiples of this: one latent is scale_factor pixels, a token 2 x 2.
  int64_t size_multiple() const { return 2 * vae.scale_factor(); }
};

}  // namespace flux
