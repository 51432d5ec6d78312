#include "pipeline/denoise.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "runtime/transfer.h"

namespace flux {
namespace {

/// FluxPipeline passes t (0..1000) rounded to T and divided by 1000 in T.
float pipeline_timestep(float timestep, DType dtype) {
  return round_to(dtype, round_to(dtype, timestep) / 1000.0f);
}

/// The results of a step for one image: the prediction, and with true CFG that of the negative
/// prompt.
struct Predictions {
  Tensor positive;
  Tensor negative;
};

TransformerInput make_input(const DenoiseImage& image, const StepClock& clock,
                            const TextEmbeddings& text, const Tensor& noise_pred) {
  const ConstTensor seen = image.input.defined() ? image.input : image.latents;
  std::vector<ImageTokens> images = {{seen, image.img_ids, noise_pred}};
  if (image.reference) images.push_back(*image.reference);
  return {.images = std::move(images),
          .encoder_hidden_states = text.prompt_embeds,
          .txt_ids = image.txt_ids,
          .pooled_projections = text.pooled_prompt_embeds,
          .guidance = image.guidance,
          .clock = clock,
          .chosen = image.adapters};
}

/// Moves latents from one noise level to another: along the prediction, and to what is kept.
void euler_to(Context& ctx, const Tensor& latents, const DenoiseImage& image,
              const Predictions& predictions, float sigma, float next) {
  euler_step(ctx, latents,
             {.delta = next - sigma,
              .prediction = predictions.positive,
              .negative = predictions.negative,
              .cfg_scale = image.true_cfg_scale});
  if (!image.kept) return;
  scale_noise(ctx, latents, {image.kept->image, image.kept->noise, next, image.kept->mask});
}

/// The latents without noise as the last prediction has them.
Tensor predict_clean(Context& ctx, const DenoiseImage& image, const Predictions& predictions,
                     float sigma) {
  const Tensor clean = pooled_tensor(ctx, image.latents.shape(), image.latents.dtype());
  copy(ctx, image.latents, clean);
  euler_to(ctx, clean, image, predictions, sigma, 0);
  return clean;
}

/// Those of all images after `done` steps.
std::vector<ConstTensor> predict_all(Context& ctx, std::span<const DenoiseImage> images,
                                     std::span<const Predictions> predictions, int done) {
  std::vector<ConstTensor> clean;
  for (size_t i = 0; i < images.size(); ++i) {
    const DenoiseImage& image = images[i];
    const bool ended = done >= image.schedule.steps();
    clean.push_back(ended ? ConstTensor(image.latents)
                          : predict_clean(ctx, image, predictions[i],
                                          image.schedule.sigmas[static_cast<size_t>(done)]));
  }
  return clean;
}

}  // namespace

void denoise(Stages& stages, std::span<DenoiseImage> images, const DenoiseObserver& observer) {
  Context& ctx = stages.context();
  int total = 0;
  std::vector<Predictions> predictions;
  std::vector<std::shared_ptr<const std::vector<float>>> timesteps;
  for (const DenoiseImage& image : images) {
    std::vector<float> rounded = image.schedule.timesteps;
    for (float& t : rounded) t = pipeline_timestep(t, image.latents.dtype());
    timesteps.push_back(std::make_shared<const std::vector<float>>(std::move(rounded)));
    total = std::max(total, image.schedule.steps());
    const auto like_latents = [&] {
      return pooled_tensor(ctx, image.latents.shape(), image.latents.dtype());
    };
    Predictions own{like_latents(), {}};
    if (image.negative != nullptr) own.negative = like_latents();
    predictions.push_back(own);
  }
  const auto report = [&](int done) {
    if (observer.on_step) observer.on_step(done, total);
  };
  report(0);
  std::vector<TransformerInput> inputs;
  for (int step = 0; step < total; ++step) {
    inputs.clear();
    for (size_t i = 0; i < images.size(); ++i) {
      const DenoiseImage& image = images[i];
      if (step >= image.schedule.steps()) continue;
      if (image.input.defined()) {
        cast(ctx, image.latents, image.input.slice(1, 0, image.latents.size(1)));
      }
      const StepClock clock{timesteps[i], static_cast<size_t>(step)};
      inputs.push_back(make_input(image, clock, *image.text, predictions[i].positive));
      if (image.negative != nullptr) {
        inputs.push_back(make_input(image, clock, *image.negative, predictions[i].negative));
      }
    }
    stages.transformer(inputs);
    const int done = step + 1;
    const auto at = static_cast<size_t>(step);
    for (size_t i = 0; i < images.size(); ++i) {
      const std::vector<float>& sigmas = images[i].schedule.sigmas;
      if (step >= images[i].schedule.steps()) continue;
      euler_to(ctx, images[i].latents, images[i], predictions[i], sigmas[at], sigmas[at + 1]);
    }
    report(done);
    if (observer.predict_every == 0 || done % observer.predict_every != 0 || done == total)
      continue;
    observer.on_predicted(done, predict_all(ctx, images, predictions, done));
  }
}

}  // namespace flux
