#include "pipeline/local_stages.h"

#include <string>
#include <utility>

#include "models/conditioning_cache.h"
#include "models/dit_transformer.h"
#include "models/vae_decoder.h"
#include "models/vae_tiling.h"
#include "ops/registry.h"
#include "pipeline/text_stages.h"
#include "runtime/fence.h"
#include "support/error.h"

namespace flux {

struct LocalStages::Loaded {
  Loaded(std::shared_ptr<const Checkpoint> opened, const LocalOptions& settings)
      : checkpoint(std::move(opened)),
        options(settings),
        context(backend_for(settings.device), settings.threads) {}

  std::shared_ptr<const Checkpoint> checkpoint;
  LocalOptions options;
  Context context;
  std::optional<ClipStage> clip;
  std::optional<T5Stage> t5;
  std::optional<DitTransformer> transformer;
  std::optional<VaeDecoder> vae;

  ConditioningCache conditioning{1};       // an image's steps follow each other
  std::shared_ptr<const Fence> last_step;  // a point shortly before its end, on a GPU

  bool has(StageKind stage) const;
  /// About what the weights of a stage take on the device.
  int64_t expected_bytes(StageKind stage) const;
  void load(StageKind stage);
  void drop(StageKind stage);
  /// Drops the other stages and the workspace; whether there were any.
  bool drop_others(StageKind stage);
};

LocalStages::LocalStages(std::shared_ptr<const Checkpoint> checkpoint,
                         const LocalOptions& options) {
  Backend& backend = backend_for(options.device);
  backend.require(options.dtype);
  if (options.memory_limit) backend.limit_memory(*options.memory_limit);
  loaded_ = std::make_unique<Loaded>(std::move(checkpoint), options);
}

LocalStages::~LocalStages() = default;

bool LocalStages::Loaded::has(StageKind stage) const {
  switch (stage) {
    case StageKind::kClipEncoder:
      return clip.has_value();
    case StageKind::kT5Encoder:
      return t5.has_value();
    case StageKind::kDitTransformer:
      return transformer.has_value();
    case StageKind::kVaeDecoder:
      return vae.has_value();
  }
  return false;
}

int64_t LocalStages::Loaded::expected_bytes(StageKind stage) const {
  const auto bytes_of = [&](const WeightFiles& files) {
    return files.parameter_count() * static_cast<int64_t>(size_of(options.dtype));
  };
  switch (stage) {
    case StageKind::kClipEncoder:
      return bytes_of(checkpoint->text_encoder());
    case StageKind::kT5Encoder:
      return bytes_of(checkpoint->text_encoder_2());
    case StageKind::kDitTransformer:
      return bytes_of(checkpoint->transformer());
    case StageKind::kVaeDecoder:
      return bytes_of(checkpoint->vae());
  }
  return 0;
}

void LocalStages::Loaded::load(StageKind stage) {
  const FluxConfig& config = checkpoint->config();
  const DType dtype = options.dtype;
  switch (stage) {
    case StageKind::kClipEncoder:
      clip.emplace(context, config.clip, checkpoint->text_encoder(),
                   checkpoint->tokenizer_directory(), dtype);
      return;
    case StageKind::kT5Encoder:
      t5.emplace(context, config.t5, checkpoint->text_encoder_2(),
                 checkpoint->tokenizer_2_directory(), dtype);
      return;
    case StageKind::kDitTransformer:
      transformer.emplace(context, config.transformer, checkpoint->transformer(), dtype);
      return;
    case StageKind::kVaeDecoder:
      vae.emplace(context, config.vae, checkpoint->vae(), dtype);
      return;
  }
}

void LocalStages::Loaded::drop(StageKind stage) {
  switch (stage) {
    case StageKind::kClipEncoder:
      clip.reset();
      return;
    case StageKind::kT5Encoder:
      t5.reset();
      return;
    case StageKind::kDitTransformer:
      conditioning.clear();  // refers to its layers
      transformer.reset();
      return;
    case StageKind::kVaeDecoder:
      vae.reset();
      return;
  }
}

bool LocalStages::Loaded::drop_others(StageKind stage) {
  bool any = false;
  for (const StageKind other : kAllStages) {
    if (other == stage || !has(other)) continue;
    any = true;
    drop(other);
  }
  context.workspace().release();
  context.memory().release();
  return any;
}

template <typename Work>
auto LocalStages::with_room(StageKind stage, const Work& work) {
  const auto loaded_work = [&] {
    if (!loaded_->has(stage)) loaded_->load(stage);
    return work();
  };
  // Known beforehand, it costs no load that ends half-way.
  if (!loaded_->has(stage) &&
      loaded_->context.runtime().available_bytes() < loaded_->expected_bytes(stage)) {
    loaded_->drop_others(stage);
  }
  try {
    return loaded_work();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUnavailable || !loaded_->drop_others(stage)) throw;
  }
  return loaded_work();
}

void LocalStages::load(StageKind stage) {
  with_room(stage, [] {});
}

int64_t LocalStages::weight_bytes(StageKind stage) const {
  const Loaded& l = *loaded_;
  switch (stage) {
    case StageKind::kClipEncoder:
      return l.clip ? l.clip->weight_bytes() : 0;
    case StageKind::kT5Encoder:
      return l.t5 ? l.t5->weight_bytes() : 0;
    case StageKind::kDitTransformer:
      return l.transformer ? l.transformer->weight_bytes() : 0;
    case StageKind::kVaeDecoder:
      return l.vae ? l.vae->weight_bytes() : 0;
  }
  return 0;
}

int64_t LocalStages::workspace_bytes() const {
  return static_cast<int64_t>(loaded_->context.workspace().reserved_bytes());
}

Context& LocalStages::context() { return loaded_->context; }

Tensor LocalStages::encode_clip(std::string_view prompt, bool* truncated) {
  const int64_t size = loaded_->checkpoint->config().clip.hidden_size;
  const Tensor pooled = pooled_tensor(loaded_->context, {size}, loaded_->options.dtype);
  const bool cut = with_room(StageKind::kClipEncoder, [&] {
    return loaded_->clip->encode(loaded_->context, prompt, pooled);
  });
  if (truncated != nullptr && cut) *truncated = true;
  return pooled;
}

Tensor LocalStages::encode_t5(std::string_view prompt, int max_sequence_length, bool* truncated) {
  const int64_t size = loaded_->checkpoint->config().t5.d_model;
  const Tensor embeds =
      pooled_tensor(loaded_->context, {max_sequence_length, size}, loaded_->options.dtype);
  const bool cut = with_room(StageKind::kT5Encoder,
                             [&] { return loaded_->t5->encode(loaded_->context, prompt, embeds); });
  if (truncated != nullptr && cut) *truncated = true;
  return embeds;
}

std::vector<TextEmbeddings> LocalStages::encode(std::span<const TextInput> rows) {
  std::vector<TextEmbeddings> result;
  for (const TextInput& row : rows) {
    TextEmbeddings embeddings;
    // On the host: ConditioningCache compares it before each step.
    embeddings.pooled_prompt_embeds =
        to_host(loaded_->context, encode_clip(row.prompt, &embeddings.truncated));
    embeddings.prompt_embeds =
        encode_t5(row.prompt_2, row.max_sequence_length, &embeddings.truncated);
    result.push_back(std::move(embeddings));
  }
  return result;
}

void LocalStages::transformer(std::span<const TransformerInput> rows) {
  // The next step is asked for when the last one nearly ends, which keeps a GPU busy. With more of
  // them ahead progress would not be what is done, and Ctrl-C would have to wait for them.
  if (const auto last_step = std::exchange(loaded_->last_step, nullptr)) last_step->wait();
  with_room(StageKind::kDitTransformer, [&] {
    loaded_->conditioning.forward(loaded_->context, *loaded_->transformer,
                                  {rows.begin(), rows.end()}, &loaded_->last_step);
  });
}

Tensor LocalStages::decode(const Tensor& latents) {
  const VaeConfig& config = loaded_->checkpoint->config().vae;
  const int64_t factor = config.scale_factor();
  const Shape size{config.out_channels, latents.size(1) * factor, latents.size(2) * factor};
  return with_room(StageKind::kVaeDecoder, [&] {
    const Tensor image = pooled_tensor(loaded_->context, size, DType::kF32);
    // Room that others leave is better than seams between tiles, but not worth a load a picture.
    try {
      loaded_->vae->forward(loaded_->context, latents, image);
      return image;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kUnavailable) throw;
    }
    loaded_->drop(StageKind::kClipEncoder);
    loaded_->drop(StageKind::kT5Encoder);
    loaded_->context.workspace().release();
    decode_within_memory(loaded_->context, *loaded_->vae, latents, image);
    return image;
  });
}

}  // namespace flux
