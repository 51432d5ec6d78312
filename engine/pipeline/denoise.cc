#include "pipeline/denoise.h"

#include <algorithm>
#include <vector>

namespace flux {
namespace {

/// FluxPipeline passes t (0..1000) rounded to T and divided by 1000 in T.
float pipeline_timestep(float timestep, DType dtype) {
  return round_to(dtype, round_to(dtype, timestep) / 1000.0f);
}

/// What a step writes for one image: the prediction, and with true CFG that of the negative prompt.
struct Predictions {
  Tensor positive;
  Tensor negative;
};

TransformerInput make_input(const DenoiseImage& image, const TextEmbeddings& text, int step,
                            const Tensor& noise_pred) {
  const auto at = static_cast<size_t>(step);
  return {.hidden_states = image.latents,
          .timestep = pipeline_timestep(image.schedule.timesteps[at], image.latents.dtype()),
          .guidance = image.guidance,
          .pooled_projections = text.pooled_prompt_embeds,
          .encoder_hidden_states = text.prompt_embeds,
          .img_ids = image.img_ids,
          .txt_ids = image.txt_ids,
          .noise_pred = noise_pred};
}

/// latents += (sigma_next - sigma) x prediction, with the roundings that torch does in T: of the
/// difference, of the product and of the sum; and before, those of true CFG.
template <typename Element>
void euler_step(const DenoiseImage& image, const Predictions& predictions, int step) {
  const DType dtype = image.latents.dtype();
  const auto rounded = [dtype](float value) { return round_to(dtype, value); };
  const auto at = static_cast<size_t>(step);
  const float delta = rounded(image.schedule.sigmas[at + 1] - image.schedule.sigmas[at]);
  auto* latents = image.latents.data<Element>();
  const auto* positive = predictions.positive.data<Element>();
  const auto* negative =
      predictions.negative.defined() ? predictions.negative.data<Element>() : nullptr;
  for (int64_t i = 0; i < image.latents.numel(); ++i) {
    auto noise = static_cast<float>(positive[i]);
    if (negative != nullptr) {
      const auto base = static_cast<float>(negative[i]);
      noise = rounded(base + rounded(image.true_cfg_scale * rounded(noise - base)));
    }
    latents[i] = Element(static_cast<float>(latents[i]) + rounded(delta * noise));
  }
}

}  // namespace

void denoise(Stages& stages, std::span<DenoiseImage> images, const StepWatcher& watch) {
  int total = 0;
  std::vector<Predictions> predictions;
  for (const DenoiseImage& image : images) {
    total = std::max(total, image.schedule.steps());
    Predictions own{Tensor::allocate(image.latents.shape(), image.latents.dtype()), {}};
    if (image.negative != nullptr) {
      own.negative = Tensor::allocate(image.latents.shape(), image.latents.dtype());
    }
    predictions.push_back(own);
  }
  std::vector<TransformerInput> inputs;
  for (int step = 0; step < total; ++step) {
    watch(step, total);
    inputs.clear();
    for (size_t i = 0; i < images.size(); ++i) {
      const DenoiseImage& image = images[i];
      if (step >= image.schedule.steps()) continue;
      inputs.push_back(make_input(image, *image.text, step, predictions[i].positive));
      if (image.negative != nullptr) {
        inputs.push_back(make_input(image, *image.negative, step, predictions[i].negative));
      }
    }
    stages.transformer(inputs);
    for (size_t i = 0; i < images.size(); ++i) {
      const DenoiseImage& image = images[i];
      if (step >= image.schedule.steps()) continue;
      if (image.latents.dtype() == DType::kBF16) {
        euler_step<BFloat16>(image, predictions[i], step);
      } else {
        euler_step<float>(image, predictions[i], step);
      }
    }
  }
  watch(total, total);
}

}  // namespace flux
