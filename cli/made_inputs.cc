#include "cli/made_inputs.h"

#include <algorithm>
#include <random>

namespace flux::cli {
namespace {

Tensor image_ids(int64_t rows, int64_t columns) {
  Tensor ids = Tensor::allocate({rows * columns, 3}, DType::kF32);
  auto* out = ids.data<float>();
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      *out++ = 0;
      *out++ = static_cast<float>(row);
      *out++ = static_cast<float>(column);
    }
  }
  return ids;
}

Tensor text_ids(int64_t tokens) {
  Tensor ids = Tensor::allocate({tokens, 3}, DType::kF32);
  std::fill_n(ids.data<float>(), ids.numel(), 0.0f);
  return ids;
}

}  // namespace

int64_t drawable_side(int64_t pixels, const FluxConfig& config) {
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
                                        const PictureSize& size) {
  const TransformerConfig& model = config.transformer;
  const int64_t rows = size.height / config.size_multiple();
  const int64_t columns = size.width / config.size_multiple();
  TransformerInput input;
  input.hidden_states = made_tensor({rows * columns, model.in_channels}, dtype);
  input.timestep = 0.5f;
  if (model.guidance_embeds) input.guidance = 3.5f;
  input.pooled_projections = made_tensor({model.pooled_projection_dim}, dtype);
  input.encoder_hidden_states = made_tensor({size.text_tokens, model.joint_attention_dim}, dtype);
  input.img_ids = image_ids(rows, columns);
  input.txt_ids = text_ids(size.text_tokens);
  input.noise_pred = Tensor::allocate({rows * columns, model.out_channels}, dtype);
  return input;
}

Tensor made_latents(const FluxConfig& config, DType dtype, const PictureSize& size) {
  const int64_t factor = config.vae.scale_factor();
  return made_tensor({config.vae.latent_channels, size.height / factor, size.width / factor},
                     dtype);
}

}  // namespace flux::cli
