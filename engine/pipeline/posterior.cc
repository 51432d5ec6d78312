#include "pipeline/posterior.h"

#include <algorithm>
#include <cmath>

#include "pipeline/latents.h"

namespace flux {
namespace {

ConstTensor half(const ConstTensor& moments, int64_t index) {
  const int64_t channels = moments.size(0) / 2;
  return moments.slice(0, index * channels, (index + 1) * channels);
}

}  // namespace

Tensor posterior_mean(const ConstTensor& moments) {
  return to_dtype(half(moments, 0), moments.dtype());
}

Tensor sample_posterior(const ConstTensor& moments, const PosteriorDraw& draw) {
  constexpr float kLeast = -30.0f;
  constexpr float kMost = 20.0f;
  const DType dtype = moments.dtype();
  const Tensor sample = to_dtype(half(moments, 0), DType::kF32);
  const Tensor log_variance = to_dtype(half(moments, 1), DType::kF32);
  NoiseGenerator generator(draw.seed);
  for (int i = 0; i < draw.skipped; ++i) generator.draw(sample.shape(), dtype);
  const Tensor noise = to_dtype(generator.draw(sample.shape(), dtype), DType::kF32);
  auto* values = sample.data<float>();
  for (int64_t i = 0; i < sample.numel(); ++i) {
    const float clamped = std::clamp(log_variance.data<float>()[i], kLeast, kMost);
    const float deviation = round_to(dtype, std::exp(round_to(dtype, 0.5f * clamped)));
    values[i] += round_to(dtype, deviation * noise.data<float>()[i]);
  }
  return to_dtype(sample, dtype);
}

std::vector<Tensor> draw_posterior(const ConstTensor& moments,
                                   std::span<const PosteriorDraw> draws) {
  std::vector<Tensor> latents;
  for (const PosteriorDraw& draw : draws) latents.push_back(sample_posterior(moments, draw));
  if (draws.empty()) latents.push_back(posterior_mean(moments));
  return latents;
}

}  // namespace flux
