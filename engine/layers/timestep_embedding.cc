#include "layers/timestep_embedding.h"

#include <cmath>

namespace flux {

TwoLayerEmbedding::TwoLayerEmbedding(const Loader& load, int64_t in, int64_t out)
    : linear_1_(load / "linear_1", in, out), linear_2_(load / "linear_2", out, out) {}

void TwoLayerEmbedding::operator()(Context& ctx, const ConstTensor& x, const Tensor& out,
                                   const ConstTensor& residual, Adapters adapters) const {
  const Workspace::Scope scope(ctx.workspace());
  const Tensor hidden = ctx.workspace().allocate({x.size(0), linear_1_.out_features()}, x.dtype());
  linear_1_(ctx, x, hidden, {.activation = Activation::kSilu, .gate = {}, .residual = {}},
            adapters);
  linear_2_(ctx, hidden, out, {.activation = Activation::kNone, .gate = {}, .residual = residual},
            adapters);
}

Tensor embed_timestep(Context& ctx, float value, DType dtype) {
  const Tensor embedding = ctx.workspace().allocate({1, kTimestepChannels}, dtype);
  const Tensor exact = Tensor::allocate({1, kTimestepChannels}, DType::kF32);
  constexpr int64_t kHalf = kTimestepChannels / 2;
  const auto log_period = static_cast<float>(-std::log(10000.0));
  float* values = exact.data<float>();
  for (int64_t i = 0; i < kHalf; ++i) {
    const float frequency = std::exp(log_period * static_cast<float>(i) / kHalf);
    const float angle = value * frequency;
    values[i] = std::cos(angle);
    values[kHalf + i] = std::sin(angle);
  }
  copy(ctx, to_dtype(exact, dtype), embedding);
  return embedding;
}

}  // namespace flux
