#include "pipeline/text_to_image.h"

#include <algorithm>

#include "pipeline/denoise.h"
#include "pipeline/latents.h"
#include "support/error.h"
#include "support/stopwatch.h"

namespace flux {
namespace {

/// Image `j` of a row is generated from the row's seed + j; torch's seeds are unsigned.
uint64_t seed_of(const ImageParams& row, int j) {
  return static_cast<uint64_t>(row.seed) + static_cast<uint64_t>(j);
}

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
    inputs.push_back({row.prompt, row.prompt_2, row.max_sequence_length});
    result.negative.push_back(row.negative_prompt ? inputs.size() : RowEmbeddings::kNone);
    if (row.negative_prompt) {
      inputs.push_back({*row.negative_prompt, *row.negative_prompt, row.max_sequence_length});
    }
  }
  result.all = stages.encode(inputs);
  return result;
}

/// The noise and everything else that the loop needs, image by image.
std::vector<DenoiseImage> prepare_images(Context& ctx, const FluxConfig& config, DType dtype,
                                         std::span<const ImageParams> rows,
                                         const RowEmbeddings& embeddings) {
  std::vector<DenoiseImage> images;
  for (size_t r = 0; r < rows.size(); ++r) {
    const ImageParams& row = rows[r];
    const LatentSize size = latent_size(config, row.height, row.width);
    DenoiseImage image;
    image.schedule = make_schedule(config.scheduler, row.num_inference_steps, size.tokens());
    if (config.transformer.guidance_embeds) image.guidance = row.guidance_scale;
    image.true_cfg_scale = row.true_cfg_scale;
    image.text = &embeddings.all[embeddings.positive[r]];
    if (embeddings.negative[r] != RowEmbeddings::kNone) {
      image.negative = &embeddings.all[embeddings.negative[r]];
    }
    image.img_ids = to_device(ctx, make_image_ids(size));
    image.txt_ids = to_device(ctx, make_text_ids(image.text->prompt_embeds.size(0)));
    for (int j = 0; j < row.num_images_per_prompt; ++j) {
      const Shape noise = {size.channels, size.height, size.width};
      image.latents = to_device(ctx, row.latents.defined()
                                         ? to_dtype(row.latents[j], dtype)
                                         : pack_latents(draw_noise(seed_of(row, j), noise, dtype)));
      images.push_back(image);
    }
  }
  return images;
}

/// The row that an image of a call belongs to.
size_t row_of(std::span<const ImageParams> rows, size_t image) {
  size_t row = 0;
  while (image >= static_cast<size_t>(rows[row].num_images_per_prompt)) {
    image -= static_cast<size_t>(rows[row++].num_images_per_prompt);
  }
  return row;
}

/// A black image is no success. Weights that are damaged, or overflow in a small dtype, give one.
void check_finite(std::span<const ConstTensor> tensors, const char* name) {
  check(std::all_of(tensors.begin(), tensors.end(), all_finite), ErrorCode::kInternal,
        "the {} hold values that are not finite: the weights are damaged, or overflow in this "
        "dtype; f32 tells which",
        name);
}

}  // namespace

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
  result.seconds.encode = stopwatch.lap();

  std::vector<DenoiseImage> images = prepare_images(ctx, config, dtype, rows, embeddings);
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
  watch.predict_every = observer.on_preview ? observer.preview_every : 0;
  watch.on_predicted = [&](size_t image, const Tensor& predicted) {
    const ImageParams& row = rows[row_of(rows, image)];
    const LatentSize size = latent_size(config, row.height, row.width);
    const Tensor half = unpack_half(ctx, predicted, size, config.vae);
    observer.on_preview(image, to_pixels(ctx, stages.decode(half)));
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
  check_finite(latents, "latents");
  result.seconds.denoise = stopwatch.lap();

  size_t next = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    const ImageParams& row = rows[r];
    const LatentSize size = latent_size(config, row.height, row.width);
    for (int j = 0; j < row.num_images_per_prompt; ++j) {
      stop_if_cancelled(steps_done, steps_total);
      const ConstTensor decoded =
          stages.decode(unpack_latents(ctx, images[next].latents, size, config.vae));
      // On a GPU the image stays there: only what is in host memory is looked at.
      if (decoded.device().is_cpu()) check_finite({&decoded, 1}, "decoded pixels");
      result.images.push_back(
          {to_pixels(ctx, decoded), latents[next++], seed_of(row, j), r, embeddings.truncated(r)});
      if (observer.on_image) observer.on_image(result.images.back());
    }
  }
  result.seconds.decode = stopwatch.lap();
  return result;
}

}  // namespace flux
