#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tensor/tensor.h"

/// The distribution of an image's latents that the VAE's encoder gives. Source: diffusers'
/// DiagonalGaussianDistribution.
namespace flux {

/// The noise of a sample: the numbers that torch.Generator("cpu").manual_seed(seed) draws for a
/// tensor of the latents' shape and dtype, after it has drawn `skipped` such tensors.
struct PosteriorDraw {
  uint64_t seed = 0;
  int skipped = 0;
};

/// The means, which are its mode. moments: as VaeEncoder::forward() gives them, in host memory.
/// Returns [latent_channels, h, w], T.
Tensor posterior_mean(const ConstTensor& moments);

/// mean + exp(log variance / 2) x noise, each result rounded to T; log variances are clamped to -30
/// to 20. As posterior_mean().
Tensor sample_posterior(const ConstTensor& moments, const PosteriorDraw& draw);

/// One sample for each draw, or the mean where there is none.
std::vector<Tensor> draw_posterior(const ConstTensor& moments,
                                   std::span<const PosteriorDraw> draws);

}  // namespace flux
