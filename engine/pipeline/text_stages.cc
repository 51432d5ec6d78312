#include "pipeline/text_stages.h"

#include "support/error.h"

namespace flux {
namespace {

/// A tokenizer of another model would read beyond the embedding table.
void check_vocabulary(const std::filesystem::path& directory, int32_t max_id, int64_t vocab_size) {
  check(max_id < vocab_size, ErrorCode::kInvalidArgument,
        "{}: the tokenizer gives ids up to {}, the text encoder's vocab_size is {}; they belong to "
        "different models",
        directory, max_id, vocab_size);
}

}  // namespace

ClipStage::ClipStage(const Loader& load, const ClipConfig& config,
                     const std::filesystem::path& tokenizer_directory)
    : tokenizer_(ClipTokenizer::load(tokenizer_directory)), encoder_(load, config) {
  check_vocabulary(tokenizer_directory, tokenizer_.max_id(), config.vocab_size);
  check(tokenizer_.max_length() <= config.max_position_embeddings, ErrorCode::kInvalidArgument,
        "{}: model_max_length is {}, the text encoder has {} positions",
        tokenizer_directory / "tokenizer_config.json", tokenizer_.max_length(),
        config.max_position_embeddings);
}

bool ClipStage::encode(Context& ctx, std::string_view prompt, const Tensor& out) const {
  const TokenIds tokens = tokenizer_.encode(prompt);
  encoder_.forward(ctx, tokens.ids, out);
  return tokens.truncated;
}

T5Stage::T5Stage(const Loader& load, const T5Config& config,
                 const std::filesystem::path& tokenizer_directory)
    : tokenizer_(T5Tokenizer::load(tokenizer_directory)), encoder_(load, config) {
  check_vocabulary(tokenizer_directory, tokenizer_.max_id(), config.vocab_size);
}

bool T5Stage::encode(Context& ctx, std::string_view prompt, const Tensor& out) const {
  const TokenIds tokens = tokenizer_.encode(prompt, static_cast<int>(out.size(0)));
  encoder_.forward(ctx, tokens.ids, out);
  return tokens.truncated;
}

}  // namespace flux
