#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "tokenizer/token_ids.h"

namespace flux {

/// The tokenizer of CLIP's text encoder, equal to `CLIPTokenizer` of transformers 5 as
/// `FluxPipeline` calls it (padding="max_length", truncation=True). Cheap to copy; const members
/// may be called from several threads.
class ClipTokenizer {
 public:
  /// Reads tokenizer.json or else vocab.json and merges.txt, and what tokenizer_config.json,
  /// special_tokens_map.json and added_tokens.json say where they exist. Errors name the file:
  /// kNotFound when none of the vocabularies is there, kInvalidArgument when one cannot be used.
  static ClipTokenizer load(const std::filesystem::path& directory);

  /// Ids of a prompt: exactly max_length() of them, start and end token included, the end token
  /// kept when the text is cut. Error kInvalidArgument when the text is not UTF-8 or has more than
  /// kMaxPromptBytes.
  TokenIds encode(std::string_view text) const;

  /// Ids a row has: model_max_length of tokenizer_config.json, 77 when that does not say.
  int max_length() const;

  /// Largest id encode() can give; the text encoder's embedding must have more rows.
  int32_t max_id() const;

 private:
  struct State;
  explicit ClipTokenizer(std::shared_ptr<const State> state);
  std::shared_ptr<const State> state_;
};

}  // namespace flux
