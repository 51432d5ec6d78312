#include "pipeline/local_stages.h"

#include <string>

#include "models/dit_transformer.h"
#include "models/vae_decoder.h"
#include "ops/backend.h"
#include "pipeline/text_stages.h"
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
};

LocalStages::LocalStages(std::shared_ptr<const Checkpoint> checkpoint,
                         const LocalOptions& options) {
  const Backend& backend = backend_for(options.device);
  check(backend.supports(options.dtype), ErrorCode::kUnsupported,
        "dtype {} cannot be computed on {}: use f32 or bf16", name_of(options.dtype),
        to_string(options.device));
  loaded_ = std::make_unique<Loaded>(std::move(checkpoint), options);
}

LocalStages::~LocalStages() = default;

void LocalStages::load(StageKind stage) {
  Loaded& l = *loaded_;
  const Checkpoint& source = *l.checkpoint;
  const FluxConfig& config = source.config();
  const DType dtype = l.options.dtype;
  switch (stage) {
    case StageKind::kClipEncoder:
      if (!l.clip) {
        l.clip.emplace(l.context, config.clip, source.text_encoder(), source.tokenizer_directory(),
                       dtype);
      }
      return;
    case StageKind::kT5Encoder:
      if (!l.t5) {
        l.t5.emplace(l.context, config.t5, source.text_encoder_2(), source.tokenizer_2_directory(),
                     dtype);
      }
      return;
    case StageKind::kDitTransformer:
      if (!l.transformer) {
        l.transformer.emplace(l.context, config.transformer, source.transformer(), dtype);
      }
      return;
    case StageKind::kVaeDecoder:
      if (!l.vae) l.vae.emplace(l.context, config.vae, source.vae(), dtype);
      return;
  }
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
  load(StageKind::kClipEncoder);
  const int64_t size = loaded_->checkpoint->config().clip.hidden_size;
  const Tensor pooled = new_tensor(loaded_->context, {size}, loaded_->options.dtype);
  const bool cut = loaded_->clip->encode(loaded_->context, prompt, pooled);
  if (truncated != nullptr && cut) *truncated = true;
  return pooled;
}

Tensor LocalStages::encode_t5(std::string_view prompt, int max_sequence_length, bool* truncated) {
  load(StageKind::kT5Encoder);
  const int64_t size = loaded_->checkpoint->config().t5.d_model;
  const Tensor embeds =
      new_tensor(loaded_->context, {max_sequence_length, size}, loaded_->options.dtype);
  const bool cut = loaded_->t5->encode(loaded_->context, prompt, embeds);
  if (truncated != nullptr && cut) *truncated = true;
  return embeds;
}

std::vector<TextEmbeddings> LocalStages::encode(std::span<const TextInput> rows) {
  std::vector<TextEmbeddings> result;
  for (const TextInput& row : rows) {
    TextEmbeddings embeddings;
    embeddings.pooled_prompt_embeds = encode_clip(row.prompt, &embeddings.truncated);
    embeddings.prompt_embeds =
        encode_t5(row.prompt_2, row.max_sequence_length, &embeddings.truncated);
    result.push_back(std::move(embeddings));
  }
  return result;
}

void LocalStages::transformer(std::span<const TransformerInput> rows) {
  load(StageKind::kDitTransformer);
  // One after another: a row's result must not depend on its neighbours, and one image's tokens are
  // enough to keep the cores busy.
  for (const TransformerInput& row : rows) loaded_->transformer->forward(loaded_->context, row);
}

Tensor LocalStages::decode(const Tensor& latents) {
  load(StageKind::kVaeDecoder);
  const VaeConfig& config = loaded_->checkpoint->config().vae;
  const int64_t factor = config.scale_factor();
  const Tensor image = new_tensor(
      loaded_->context, {config.out_channels, latents.size(1) * factor, latents.size(2) * factor},
      DType::kF32);
  loaded_->vae->forward(loaded_->context, latents, image);
  return image;
}

}  // namespace flux
