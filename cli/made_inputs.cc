#include "cli/made_inputs.h"

#include <algorithm>
#include <random>

#include "pipeline/latents.h"

namespace flux::cli {
int64_t allowed_side(int64_t pixels, const FluxConfig& config) {
  const int64_t multiple = config.size_multiple();
  return std::max(multiple, pixels / multiple * multiple);
}

Tensor made_tensor(const Shape& shape, DType dtype) {
  Tensor values = Tensor::allocate(shape, DType::kF32);
  std::mt19937 engine(20240801);  // NOLINT(cert-msc*-c*): the same inputs in every run
  std::normal_distribution<float> normal;
  std::generate_n(values.data<float>(), values.numel(), [&] { return normal(engine); });
  return to_dtype(values, dtype);
}

TransformerInput made_transformer_input(const FluxConfig& config, DType dtype,
                                        const ImageSize& size) {
  const FluxTransformerConfig& model = config.transformer;
  const LatentSize latents = latent_size(config, size.height, size.width);
  TransformerInput input;
  input.images = {{made_tensor({latents.tokens(), model.in_channels}, dtype),
                   make_image_ids(latents),
                   Tensor::allocate({latents.tokens(), model.out_channels}, dtype)}};
  input.encoder_hidden_states = made_tensor({size.text_tokens, model.joint_attention_dim}, dtype);
  input.txt_ids = make_text_ids(size.text_tokens);
  input.pooled_projections = made_tensor({model.pooled_projection_dim}, dtype);
  if (model.guidance_embeds) input.guidance = 3.5f;
  input.clock = StepClock::single(0.5f);
  return input;
}

Tensor made_latents(const FluxConfig& config, DType dtype, const ImageSize& size) {
  const int64_t factor = config.vae.scale_factor();
  return made_tensor({config.vae.latent_channels, size.height / factor, size.width / factor},
                     dtype);
}

}  // namespace flux::cli
