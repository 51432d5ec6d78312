#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "tokenizer/sentencepiece_model.h"
#include "tokenizer/token_ids.h"

namespace flux {

/// The tokenizer of the T5 text encoder, equal to `T5Tokenizer` (= `T5TokenizerFast`) of
/// transformers 5 as `FluxPipeline` calls it (padding="max_length", truncation=True).
///
/// It does not go through the sentencepiece library: transformers itself only takes pieces, scores
/// and the character map from the model and runs the Hugging Face `tokenizers` algorithms on them,
/// which normalise by grapheme, split at white space first, add up scores in double precision and
/// see control pieces in the text. The library's ids differ. Cheap to copy; const members may be
/// called from several threads.
class T5Tokenizer {
 public:
  /// Reads tokenizer.json or, when that is missing, spiece.model, and what tokenizer_config.json,
  /// special_tokens_map.json and added_tokens.json say where they exist. Errors name the file:
  /// kNotFound when neither is there, kInvalidArgument when one cannot be used.
  static T5Tokenizer load(const std::filesystem::path& directory);

  /// The tokenizer of a sentencepiece model without any of those files; `source` names it in
  /// errors.
  static T5Tokenizer from_model(SentencePieceModel model, const std::string& source);

  /// Ids of a prompt: exactly `max_length` (1 to 65536) of them, padded, with the end token kept
  /// when the text is cut. Error kInvalidArgument when the text is not UTF-8 or has more than
  /// kMaxPromptBytes, or max_length is out of range.
  TokenIds encode(std::string_view text, int max_length) const;

  /// Largest id encode() can give; the text encoder's embedding must have more rows.
  int32_t max_id() const;

 private:
  struct State;
  explicit T5Tokenizer(std::shared_ptr<const State> state);
  std::shared_ptr<const State> state_;
};

}  // namespace flux
