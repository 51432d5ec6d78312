#include "pipeline/local_stages.h"

#include <algorithm>
#include <list>
#include <string>

#include "models/dit_transformer.h"
#include "models/vae_decoder.h"
#include "models/vae_tiling.h"
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

  /// What a row of transformer calls keeps between its steps, by what it depends on.
  struct Kept {
    Tensor pooled;  // holds its memory: no other tensor can come to be at its address
    std::optional<float> guidance;
    std::vector<float> timesteps;
    KeptConditioning conditioning;
  };
  std::list<Kept> kept;

  /// What `row` keeps: found among what is in use or was kept before, or new; then it is in use.
  KeptConditioning* kept_for(const TransformerInput& row, std::list<Kept>& in_use);
};

namespace {

/// Kept conditioning takes some 100 MB a row.
constexpr size_t kMostKeptRows = 8;

}  // namespace

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

KeptConditioning* LocalStages::Loaded::kept_for(const TransformerInput& row,
                                                std::list<Kept>& in_use) {
  const auto fits = [&](const Kept& candidate) {
    return candidate.pooled.raw() == row.pooled_projections.raw() &&
           candidate.guidance == row.guidance &&
           std::equal(candidate.timesteps.begin(), candidate.timesteps.end(), row.timesteps.begin(),
                      row.timesteps.end());
  };
  auto found = std::find_if(in_use.begin(), in_use.end(), fits);
  if (found != in_use.end()) return &found->conditioning;
  found = std::find_if(kept.begin(), kept.end(), fits);
  if (found != kept.end()) {
    in_use.splice(in_use.end(), kept, found);
  } else {
    in_use.push_back(
        {row.pooled_projections, row.guidance, {row.timesteps.begin(), row.timesteps.end()}, {}});
  }
  return &in_use.back().conditioning;
}

void LocalStages::transformer(std::span<const TransformerInput> rows) {
  load(StageKind::kDitTransformer);
  // On the CPU a step is long beside its modulations.
  const bool keep = !loaded_->options.device.is_cpu() && rows.size() <= kMostKeptRows;
  std::list<Loaded::Kept> in_use;  // what this call does not need again is forgotten
  std::vector<TransformerInput> own(rows.begin(), rows.end());
  for (TransformerInput& row : own) {
    if (keep && !row.timesteps.empty()) row.kept = loaded_->kept_for(row, in_use);
  }
  loaded_->transformer->forward(loaded_->context, own);
  loaded_->kept = std::move(in_use);
}

Tensor LocalStages::decode(const Tensor& latents) {
  load(StageKind::kVaeDecoder);
  const VaeConfig& config = loaded_->checkpoint->config().vae;
  const int64_t factor = config.scale_factor();
  const Tensor image = new_tensor(
      loaded_->context, {config.out_channels, latents.size(1) * factor, latents.size(2) * factor},
      DType::kF32);
  decode_within_memory(loaded_->context, *loaded_->vae, latents, image);
  return image;
}

}  // namespace flux
