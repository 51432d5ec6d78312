// Source: diffusers' FluxControlPipeline. A generator draws the control image's latents first, then
// the noise.
#include "pipeline/image_start.h"

namespace flux {

std::vector<ImageStart> start_control(const StartContext& start) {
  const std::vector<Tensor> controls =
      start.encode(start.pixels(start.row.height, start.row.width), start.draws(0));
  std::vector<ImageStart> starts;
  for (int j = 0; j < start.row.num_images_per_prompt; ++j) {
    ImageStart own{start.noise(j, 1)};
    const ConstTensor seen[] = {controls[static_cast<size_t>(j)]};
    own.input = start.input_of(own.latents, seen);
    starts.push_back(std::move(own));
  }
  return starts;
}

}  // namespace flux
