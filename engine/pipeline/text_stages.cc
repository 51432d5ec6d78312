#include "pipeline/text_stages.h"

#include <vector>

#include "pipeline/gguf_tokenizer.h"
#include "support/error.h"
#include "support/file.h"

namespace flux {
namespace {

namespace fs = std::filesystem;

/// The GGUF file of a directory that holds one; empty otherwise.
fs::path only_gguf_in(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    if (ending_of(entry.path()) == ".gguf") files.push_back(entry.path());
  }
  return files.size() == 1 ? files[0] : fs::path();
}

/// A tokenizer of another model would read beyond the embedding table.
void check_vocabulary(const fs::path& place, int32_t max_id, int64_t vocab_size) {
  check(max_id < vocab_size, ErrorCode::kInvalidArgument,
        "{}: the tokenizer gives ids up to {}, the text encoder's vocab_size is {}; they belong to "
        "different models",
        place, max_id, vocab_size);
}

}  // namespace

ClipTokenizer load_clip_tokenizer(const fs::path& place) { return ClipTokenizer::load(place); }

T5Tokenizer load_t5_tokenizer(const fs::path& place) {
  fs::path file = place;
  if (fs::is_directory(place)) {
    const bool own = fs::exists(place / "tokenizer.json") || fs::exists(place / "spiece.model");
    file = own ? fs::path() : only_gguf_in(place);
    if (file.empty()) return T5Tokenizer::load(place);
  }
  return T5Tokenizer::from_model(sentencepiece_of(*GgufFile::open(file)), file.string());
}

ClipStage::ClipStage(const Loader& load, const ClipConfig& config, const fs::path& tokenizer)
    : tokenizer_(load_clip_tokenizer(tokenizer)), encoder_(load, config) {
  check_vocabulary(tokenizer, tokenizer_.max_id(), config.vocab_size);
  check(tokenizer_.max_length() <= config.max_position_embeddings, ErrorCode::kInvalidArgument,
        "{}: model_max_length is {}, the text encoder has {} positions",
        tokenizer / "tokenizer_config.json", tokenizer_.max_length(),
        config.max_position_embeddings);
}

bool ClipStage::encode(Context& ctx, std::string_view prompt, const Tensor& out,
                       Adapters adapters) const {
  const TokenIds tokens = tokenizer_.encode(prompt);
  encoder_.forward(ctx, tokens.ids, out, adapters);
  return tokens.truncated;
}

T5Stage::T5Stage(const Loader& load, const T5Config& config, const fs::path& tokenizer)
    : tokenizer_(load_t5_tokenizer(tokenizer)), encoder_(load, config) {
  check_vocabulary(tokenizer, tokenizer_.max_id(), config.vocab_size);
}

bool T5Stage::encode(Context& ctx, std::string_view prompt, const Tensor& out,
                     Adapters adapters) const {
  const TokenIds tokens = tokenizer_.encode(prompt, static_cast<int>(out.size(0)));
  encoder_.forward(ctx, tokens.ids, out, adapters);
  return tokens.truncated;
}

}  // namespace flux
