// Source: diffusers' FluxFillPipeline. A generator draws the image's latents (also where strength 1
// leaves nothing of them), then the noise, then the latents of the image without what is masked.
#include "pipeline/image_start.h"

namespace flux {
namespace {

/// An image that is 0 where the mask is 1.
Tensor without_masked(const Tensor& pixels, const ConstTensor& mask) {
  const int64_t plane = mask.numel();
  const Tensor rest = to_dtype(pixels, DType::kF32);
  for (int64_t i = 0; i < rest.numel(); ++i) {
    rest.data<float>()[i] *= 1.0f - mask.data<float>()[i % plane];
  }
  return rest;
}

/// The pixels of each latent as its channels, row by row: [1, H, W] -> [factor^2, H / factor, W /
/// factor].
Tensor fold(const ConstTensor& mask, int64_t factor) {
  const int64_t rows = mask.size(1) / factor;
  const int64_t columns = mask.size(2) / factor;
  const Tensor folded = Tensor::allocate({factor * factor, rows, columns}, DType::kF32);
  auto* to = folded.data<float>();
  for (int64_t pixel = 0; pixel < factor * factor; ++pixel) {
    for (int64_t y = 0; y < rows; ++y) {
      for (int64_t x = 0; x < columns; ++x) {
        const int64_t line = y * factor + pixel / factor;
        *to++ = mask.data<float>()[line * mask.size(2) + x * factor + pixel % factor];
      }
    }
  }
  return folded;
}

}  // namespace

std::vector<ImageStart> start_fill(const StartContext& start) {
  const Tensor pixels = start.pixels(start.row.height, start.row.width);
  const Tensor mask = start.mask();
  const std::vector<Tensor> images = start.encode(pixels, start.draws(0));
  const std::vector<Tensor> rests = start.encode(without_masked(pixels, mask), start.draws(2));
  const Tensor folded =
      to_device(start.ctx(),
                pack_latents(to_dtype(fold(mask, start.config.vae.scale_factor()), start.dtype)));
  std::vector<ImageStart> starts;
  for (int j = 0; j < start.row.num_images_per_prompt; ++j) {
    const auto at = static_cast<size_t>(j);
    const Tensor latents = pooled_tensor(start.ctx(), images[at].shape(), start.dtype);
    scale_noise(start.ctx(), latents,
                {images[at], start.noise(j, 1), start.schedule.sigmas.front()});
    const ConstTensor seen[] = {rests[at], folded};
    ImageStart own{latents};
    own.input = start.input_of(latents, seen);
    starts.push_back(std::move(own));
  }
  return starts;
}

}  // namespace flux
