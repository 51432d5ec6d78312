#pragma once

#include <functional>
#include <span>
#include <vector>

#include "pipeline/flux_config.h"
#include "pipeline/request.h"
#include "pipeline/stages.h"

namespace flux {

/// One finished image.
struct GeneratedImage {
  ConstTensor pixels;   // [height, width, 3], u8, RGB
  ConstTensor latents;  // [image tokens, channels], T: packed, as the denoise loop ends
  uint64_t seed = 0;
  size_t row = 0;          // index of the request it belongs to
  bool truncated = false;  // a prompt or the negative one was too long for an encoder
};

/// Seconds spent in each part of a generate() call.
struct StageSeconds {
  double encode = 0;
  double denoise = 0;
  double decode = 0;
};

struct GenerateResult {
  std::vector<GeneratedImage> images;  // row by row
  StageSeconds seconds;
};

/// The listener of a generate() call. Both functions may be empty.
struct GenerateObserver {
  /// After each denoising step: steps done and steps in all.
  std::function<void(int done, int total)> on_step;
  /// Asked between stages and steps; true makes generate() throw kCancelled
  /// ("cancelled after step 7 of 28").
  std::function<bool()> cancelled;
};

/// FluxPipeline.__call__: text encoding, noise, the denoise loop, decoding, pixels. `dtype` is the
/// pipeline's dtype T (f32 or bf16); it decides the noise. Rows may differ in every value and do
/// not influence one another.
GenerateResult generate(Stages& stages, const FluxConfig& config, DType dtype,
                        std::span<const ImageParams> rows, const GenerateObserver& observer);

}  // namespace flux
