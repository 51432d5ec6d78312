#include "pipeline/text_to_image.h"

#include <algorithm>
#include <utility>

#include "pipeline/denoise.h"
#include "pipeline/image_start.h"
#include "pipeline/latents.h"
#include "pipeline/stage_results.h"
#include "support/error.h"
#include "support/stopwatch.h"

namespace flux {
namespace {

/// The embeddings of all rows: those of the prompts, and of the negative prompts where rows have
/// one (FluxPipeline gives both encoders the same negative prompt).
struct RowEmbeddings {
  std::vector<TextEmbeddings> all;
  std::vector<size_t> positive;  // for each row, an index into all
  std::vector<size_t> negative;  // likewise; kNone without one

  static constexpr size_t kNone = static_cast<size_t>(-1);

  /// Whether a prompt of the row, or its negative prompt, was longer than an encoder takes.
  Truncation truncated(size_t row) const {
    Truncation cut = all[positive[row]].truncated;
    if (negative[row] != kNone) cut |= all[negative[row]].truncated;
    return cut;
  }
};

RowEmbeddings encode_prompts(Stages& stages, std::span<const ImageParams> rows) {
  RowEmbeddings result;
  std::vector<TextInput> inputs;
  for (const ImageParams& row : rows) {
    result.positive.push_back(inputs.size());
    inputs.push_back({row.prompt, row.prompt_2, row.max_sequence_length, row.adapters});
    result.negative.push_back(row.negative_prompt ? inputs.size() : RowEmbeddings::kNone);
    if (row.negative_prompt) {
      inputs.push_back(
          {*row.negative_prompt, *row.negative_prompt, row.max_sequence_length, row.adapters});
    }
  }
  result.all = stages.encode(inputs);
  return result;
}

/// The latents to start from and everything else that the loop needs, image by image.
std::vector<DenoiseImage> prepare_images(Stages& stages, const FluxConfig& config, DType dtype,
                                         std::span<const ImageParams> rows,
                                         const RowEmbeddings& embeddings) {
  Context& ctx = stages.context();
  std::vector<DenoiseImage> images;
  for (size_t r = 0; r < rows.size(); ++r) {
    const ImageParams& row = rows[r];
    const LatentSize size = latent_size(config, row.height, row.width);
    DenoiseImage image;
    if (config.transformer.guidance_embeds) image.guidance = row.guidance_scale;
    image.true_cfg_scale = row.true_cfg_scale;
    image.adapters = row.adapters;
    image.text = &embeddings.all[embeddings.positive[r]];
    if (embeddings.negative[r] != RowEmbeddings::kNone) {
      image.negative = &embeddings.all[embeddings.negative[r]];
    }
    image.img_ids = to_device(ctx, make_image_ids(size));
    image.txt_ids = to_device(ctx, make_text_ids(image.text->prompt_embeds.size(0)));
    image.schedule =
        without_first(make_schedule(config.scheduler, row.num_inference_steps, size.tokens()),
                      row.num_inference_steps - row.denoising_steps());
    for (ImageStart& start : start_images({stages, config, dtype, row, image.schedule})) {
      image.latents = start.latents;
      image.kept = std::move(start.kept);
      image.input = start.input;
      image.reference = std::move(start.reference);
      images.push_back(image);
    }
  }
  return images;
}

/// Decodes the previews of the images that have steps to go.
void show_previews(Stages& stages, const FluxConfig& config, std::span<const ImageParams> rows,
                   int done, std::span<const ConstTensor> predicted,
                   const GenerateObserver& observer) {
  constexpr int64_t kHalf = 2;
  Context& ctx = stages.context();
  for (size_t i = 0; i < predicted.size(); ++i) {
    const ImageParams& row = rows[row_of(rows, i)];
    if (done >= row.denoising_steps()) continue;
    const LatentSize size = latent_size(config, row.height, row.width);
    const Tensor half = unpack_reduced(ctx, predicted[i], size, config.vae, kHalf);
    observer.on_preview(i, to_pixels(ctx, stages.decode(half)));
  }
}

/// Checks what is in host memory.
void check_embeddings(std::span<const TextEmbeddings> all) {
  for (const TextEmbeddings& each : all) {
    check_result(name_of(StageKind::kClipEncoder), "pooled_prompt_embeds",
                 each.pooled_prompt_embeds);
    check_result(name_of(StageKind::kT5Encoder), "prompt_embeds", each.prompt_embeds);
  }
}

/// Checks the results of the loop, in host memory.
void check_latents(Context& ctx, std::span<const ConstTensor> latents,
                   std::vector<TextEmbeddings> embeddings) {
  if (std::all_of(latents.begin(), latents.end(), all_finite)) return;
  // Those on a GPU have not been looked at, and may be where it began.
  for (TextEmbeddings& each : embeddings) each.prompt_embeds = to_host(ctx, each.prompt_embeds);
  check_embeddings(embeddings);
  for (const ConstTensor& each : latents) {
    check_result(name_of(StageKind::kDitTransformer), "noise_pred", each);
  }
}

}  // namespace

size_t row_of(std::span<const ImageParams> rows, size_t image) {
  size_t row = 0;
  while (image >= static_cast<size_t>(rows[row].num_images_per_prompt)) {
    image -= static_cast<size_t>(rows[row++].num_images_per_prompt);
  }
  return row;
}

GenerateResult generate(Stages& stages, const FluxConfig& config, DType dtype,
                        std::span<const ImageParams> rows, const GenerateObserver& observer) {
  const auto stop_if_cancelled = [&](int done, int total) {
    if (!observer.cancelled || !observer.cancelled()) return;
    fail(ErrorCode::kCancelled, "cancelled after step {} of {}", done, total);
  };
  Context& ctx = stages.context();
  GenerateResult result;
  Stopwatch stopwatch;
  const RowEmbeddings embeddings = encode_prompts(stages, rows);
  check_embeddings(embeddings.all);
  std::vector<DenoiseImage> images = prepare_images(stages, config, dtype, rows, embeddings);
  result.seconds.encode = stopwatch.lap();

  std::vector<ConstTensor> latents;  // the results, in host memory
  int steps_done = 0;
  int steps_total = 0;
  DenoiseObserver watch;
  watch.on_step = [&](int done, int total) {
    steps_done = done;
    steps_total = total;
    if (observer.on_step) observer.on_step(done, total);
    stop_if_cancelled(done, total);
  };
  if (observer.on_preview || observer.on_predicted) watch.predict_every = observer.preview_every;
  watch.on_predicted = [&](int done, std::span<const ConstTensor> predicted) {
    if (observer.on_predicted) observer.on_predicted(done, predicted);
    if (observer.on_preview) show_previews(stages, config, rows, done, predicted, observer);
  };
  try {
    denoise(stages, images, watch);
    for (DenoiseImage& image : images) latents.push_back(to_host(ctx, image.latents));
  } catch (const Error& e) {
    // A stage that was stopped in the middle of a step does not know which step it was.
    if (e.code() == ErrorCode::kCancelled) {
      fail(ErrorCode::kCancelled, "cancelled after step {} of {}", steps_done, steps_total);
    }
    throw;
  }
  check_latents(ctx, latents, embeddings.all);
  result.seconds.denoise = stopwatch.lap();

  size_t next = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    const ImageParams& row = rows[r];
    const LatentSize size = latent_size(config, row.height, row.width);
    for (int j = 0; j < row.num_images_per_prompt; ++j) {
      stop_if_cancelled(steps_done, steps_total);
      const ConstTensor decoded =
          stages.decode(unpack_latents(ctx, images[next].latents, size, config.vae));
      check_result(name_of(StageKind::kVaeDecoder), "image", decoded);
      result.images.push_back(
          {to_pixels(ctx, decoded), latents[next++], row.seed_of(j), r, embeddings.truncated(r)});
      if (observer.on_image) observer.on_image(result.images.back());
    }
  }
  result.seconds.decode = stopwatch.lap();
  return result;
}

}  // namespace flux
