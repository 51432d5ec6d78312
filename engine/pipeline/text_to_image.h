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
  size_t row = 0;        // index of the request it belongs to
  Truncation truncated;  // of the prompts and the negative one
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

/// The listener of a generate() call. Every function may be empty; images are counted row by row.
struct GenerateObserver {
  /// Before the first denoising step and after each: steps done and steps in all.
  std::function<void(int done, int total)> on_step;
  /// After every `preview_every` steps (0: never), for each image that has steps to go: how it
  /// would look if it were finished now, at half its size. pixels: [height / 2, width / 2, 3], u8,
  /// RGB.
  std::function<void(size_t image, const ConstTensor& pixels)> on_preview;
  /// For a caller that makes previews itself: after every `preview_every` steps but the last, for
  /// all images what DenoiseObserver::on_predicted gives.
  std::function<void(int done, std::span<const ConstTensor> predicted)> on_predicted;
  int preview_every = 0;  // of both
  /// Each image when it is decoded.
  std::function<void(const GeneratedImage& image)> on_image;
  /// Asked between stages and steps; true makes generate() throw kCancelled
  /// ("cancelled after step 7 of 28").
  std::function<bool()> cancelled;
};

/// The row that an image of a call belongs to.
size_t row_of(std::span<const ImageParams> rows, size_t image);

/// FluxPipeline.__call__, and that of the other kinds, which differ in how the loop begins and what
/// it looks at (pipeline/image_start.h): text encoding, images, noise, the denoise loop, decoding,
/// pixels. `dtype` is the pipeline's dtype T (f32 or bf16); it decides the noise. Rows may differ
/// in every value and do not influence one another.
GenerateResult generate(Stages& stages, const FluxConfig& config, DType dtype,
                        std::span<const ImageParams> rows, const GenerateObserver& observer);

}  // namespace flux
