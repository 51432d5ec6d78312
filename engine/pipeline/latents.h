#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <vector>

#include "ops/ops.h"
#include "pipeline/flux_config.h"
#include "tensor/tensor.h"

namespace flux {

/// The size of an image in latents and tokens. A token is 2 x 2 latents.
struct LatentSize {
  int64_t channels = 0;
  int64_t height = 0;  // latent rows
  int64_t width = 0;

  int64_t token_rows() const { return height / 2; }
  int64_t token_columns() const { return width / 2; }
  int64_t tokens() const { return token_rows() * token_columns(); }
};

/// The latents of an image of height x width pixels (multiples of config.size_multiple()).
LatentSize latent_size(const FluxConfig& config, int64_t height, int64_t width);

/// torch.Generator("cpu").manual_seed(seed). Sources: torch's CPUGeneratorImpl (mt19937) and
/// normal_fill; Box and Muller (1958).
class NoiseGenerator {
 public:
  explicit NoiseGenerator(uint64_t seed) : engine_(static_cast<uint32_t>(seed)) {}

  /// The numbers that torch.randn(shape, generator=generator, dtype=dtype) draws next, in order;
  /// host memory of `dtype` (f32, bf16 or f16).
  Tensor draw(const Shape& shape, DType dtype);

 private:
  void fill_scalar_normal(std::vector<float>& values);

  std::mt19937 engine_;          // torch keeps the low 32 bits of a seed
  std::optional<double> spare_;  // of a pair, where an odd count of numbers was drawn
};

/// The first draw of a seed's generator.
Tensor draw_noise(uint64_t seed, const Shape& shape, DType dtype);

/// [channels, height, width] -> [tokens, 4 channels]. Source: FluxPipeline._pack_latents.
Tensor pack_latents(const ConstTensor& latents);

/// Latents as the encoder gives them, in host memory -> (latents - shift_factor) x scaling_factor,
/// each rounded to the dtype. Source: FluxImg2ImgPipeline._encode_vae_image.
Tensor scale_latents(const ConstTensor& latents, const VaeConfig& config);

/// The inverse of pack_latents, then latents / scaling_factor + shift_factor, each rounded to the
/// dtype. Sources: FluxPipeline._unpack_latents and __call__.
Tensor unpack_latents(Context& ctx, const ConstTensor& packed, const LatentSize& size,
                      const VaeConfig& config);

/// The latents of the same image, `factor` >= 1 times smaller, as unpack_latents() gives them: the
/// mean of each factor x factor latents, and at the lower and the right edge of those that are
/// there. [channels, height / factor, width / factor], both rounded up. The CPU computes it.
Tensor unpack_reduced(Context& ctx, const ConstTensor& packed, const LatentSize& size,
                      const VaeConfig& config, int64_t factor);

/// The least factor of unpack_reduced() with which no side of the decoded picture is longer than
/// `pixels`; at least one latent is left.
int64_t reduction_to(const LatentSize& size, const VaeConfig& config, int64_t pixels);

/// [tokens, 3], f32: (0, row, column). Source: FluxPipeline._prepare_latent_image_ids.
Tensor make_image_ids(const LatentSize& size);

/// [tokens, 3], f32: zeros.
Tensor make_text_ids(int64_t tokens);

/// image: [3, H, W], f32, [-1, 1] -> [H, W, 3], u8. Values are moved to [0, 1], clamped, scaled to
/// 255 and rounded half to even; NaN becomes 0. Source: VaeImageProcessor.postprocess.
ConstTensor to_pixels(Context& ctx, const ConstTensor& image);

/// Whether every element of a host tensor (f32 or bf16) is a finite number.
bool all_finite(const ConstTensor& tensor);

}  // namespace flux
