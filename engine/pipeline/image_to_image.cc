// Sources: diffusers' FluxImg2ImgPipeline and FluxInpaintPipeline, prepare_latents and
// prepare_mask_latents. A generator draws the image's latents first, then the noise. (Then, for an
// inpainting, the latents of the image without what is masked, which nothing uses.)
#include "image/resize.h"
#include "pipeline/image_start.h"

namespace flux {
namespace {

/// What of the latents is made anew: the mask for each channel, packed.
Tensor packed_mask(const StartContext& start) {
  const LatentSize size = start.size();
  const Tensor mask = resize_nearest(start.mask(), size.height, size.width);
  const Tensor all = Tensor::allocate({size.channels, size.height, size.width}, DType::kF32);
  for (int64_t channel = 0; channel < size.channels; ++channel) copy_convert(mask[0], all[channel]);
  return to_device(start.ctx(), pack_latents(to_dtype(all, start.dtype)));
}

}  // namespace

std::vector<ImageStart> start_image_to_image(const StartContext& start) {
  const std::vector<Tensor> images =
      start.encode(start.pixels(start.row.height, start.row.width), start.draws(0));
  ConstTensor mask;
  if (start.row.mask) mask = packed_mask(start);
  std::vector<ImageStart> starts;
  for (int j = 0; j < start.row.num_images_per_prompt; ++j) {
    const Tensor& image = images[static_cast<size_t>(j)];
    const Tensor noise = start.noise(j, 1);
    const Tensor latents = pooled_tensor(start.ctx(), noise.shape(), start.dtype);
    scale_noise(start.ctx(), latents, {image, noise, start.schedule.sigmas.front()});
    ImageStart own{latents};
    if (mask.defined()) own.kept = KeptImage{image, noise, mask};
    starts.push_back(std::move(own));
  }
  return starts;
}

}  // namespace flux
