#include "pipeline/local_stages.h"

#include <string>

#include "models/clip_encoder.h"
#include "models/dit_transformer.h"
#include "models/t5_encoder.h"
#include "models/vae_decoder.h"
#include "ops/backend.h"
#include "support/error.h"
#include "tokenizer/clip_bpe.h"
#include "tokenizer/t5_sentencepiece.h"

namespace flux {

struct LocalStages::Loaded {
  Loaded(std::shared_ptr<const Checkpoint> source, const LocalOptions& settings)
      : checkpoint(std::move(source)),
        options(settings),
        context(backend_for(settings.device), settings.threads) {}

  std::shared_ptr<const Checkpoint> checkpoint;
  LocalOptions options;
  Context context;
  std::optional<ClipTokenizer> clip_tokenizer;
  std::optional<T5Tokenizer> t5_tokenizer;
  std::optional<ClipEncoder> clip;
  std::optional<T5Encoder> t5;
  std::optional<DitTransformer> transformer;
  std::optional<VaeDecoder> vae;
};

namespace {

/// A tokenizer of another model would read beyond the embedding table.
void check_vocabulary(const std::filesystem::path& directory, int32_t max_id, int64_t vocab_size) {
  check(max_id < vocab_size, ErrorCode::kInvalidArgument,
        "{}: the tokenizer gives ids up to {}, the text encoder's vocab_size is {}; they belong to "
        "different models",
        directory.string(), max_id, vocab_size);
}

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
      if (l.clip) return;
      l.clip_tokenizer = ClipTokenizer::load(source.tokenizer_directory());
      check_vocabulary(source.tokenizer_directory(), l.clip_tokenizer->max_id(),
                       config.clip.vocab_size);
      check(l.clip_tokenizer->max_length() <= config.clip.max_position_embeddings,
            ErrorCode::kInvalidArgument,
            "{}: model_max_length is {}, the text encoder has {} positions",
            (source.tokenizer_directory() / "tokenizer_config.json").string(),
            l.clip_tokenizer->max_length(), config.clip.max_position_embeddings);
      l.clip.emplace(l.context, config.clip, source.text_encoder(), dtype);
      return;
    case StageKind::kT5Encoder:
      if (l.t5) return;
      l.t5_tokenizer = T5Tokenizer::load(source.tokenizer_2_directory());
      check_vocabulary(source.tokenizer_2_directory(), l.t5_tokenizer->max_id(),
                       config.t5.vocab_size);
      l.t5.emplace(l.context, config.t5, source.text_encoder_2(), dtype);
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
  const TokenIds tokens = loaded_->clip_tokenizer->encode(prompt);
  if (truncated != nullptr && tokens.truncated) *truncated = true;
  const int64_t size = loaded_->checkpoint->config().clip.hidden_size;
  Tensor pooled = Tensor::allocate({size}, loaded_->options.dtype);
  loaded_->clip->forward(loaded_->context, tokens.ids, pooled);
  return pooled;
}

Tensor LocalStages::encode_t5(std::string_view prompt, int max_sequence_length, bool* truncated) {
  load(StageKind::kT5Encoder);
  const TokenIds tokens = loaded_->t5_tokenizer->encode(prompt, max_sequence_length);
  if (truncated != nullptr && tokens.truncated) *truncated = true;
  const int64_t size = loaded_->checkpoint->config().t5.d_model;
  Tensor embeds = Tensor::allocate({std::ssize(tokens.ids), size}, loaded_->options.dtype);
  loaded_->t5->forward(loaded_->context, tokens.ids, embeds);
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
  Tensor image = Tensor::allocate(
      {config.out_channels, latents.size(1) * factor, latents.size(2) * factor}, DType::kF32);
  loaded_->vae->forward(loaded_->context, latents, image);
  return image;
}

}  // namespace flux
