#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/token_ids.h"

namespace flux {

/// A special token as a file gives it: with its properties, or as a bare text (which then counts as
/// special and is searched for in the raw text).
struct TokenValue {
  AddedToken token;
  bool bare = true;
  bool normalized_by_default = true;  // the file does not say; then it is the opposite of special

  static TokenValue of(std::string content) {
    return {{.content = std::move(content), .special = true}, true};
  }
};

/// The combined settings of tokenizer_config.json, special_tokens_map.json, added_tokens.json and
/// the added_tokens of tokenizer.json, resolved as `PreTrainedTokenizerBase._from_pretrained` of
/// transformers 5 resolves them: when tokenizer_config.json has `added_tokens_decoder`, the other
/// three are not read at all.
class TokenizerConfig {
 public:
  /// `tokenizer_json`: the content of tokenizer.json, or null when there is none.
  /// Error kInvalidArgument naming the file and key when a value has the wrong type.
  static TokenizerConfig read(const std::filesystem::path& directory,
                              const nlohmann::json* tokenizer_json);

  /// Sets bos_token and the like where no file mentions it.
  void set_default(const std::string& name, const std::string& content);

  /// Content of bos_token, eos_token, pad_token or unk_token, if set.
  std::optional<std::string> named(const std::string& name) const;

  /// All tokens to add, in the order in which new ids are given. `extra`: the list of further
  /// special tokens (see extra_special, additional_special).
  std::vector<AddedToken> added_tokens(const std::vector<TokenValue>& extra) const;

  /// `extra_special_tokens`, or `additional_special_tokens` of tokenizer_config.json.
  std::optional<std::vector<TokenValue>> extra_special;
  /// `additional_special_tokens` of special_tokens_map.json.
  std::optional<std::vector<TokenValue>> additional_special;
  std::optional<int64_t> model_max_length;
  int extra_ids = 100;
  Side truncation_side = Side::kRight;
  Side padding_side = Side::kRight;
  bool split_special_tokens = false;

 private:
  void read_config(const std::filesystem::path& path, const nlohmann::json& config);
  void read_special_tokens_map(const std::filesystem::path& path);
  void read_added_tokens(const std::filesystem::path& path);
  void add_to_decoder(int64_t id, TokenValue token);

  std::map<int64_t, TokenValue> decoder_;                   // tokens by the id the file gives
  std::map<std::string, TokenValue> by_content_;            // the same, the latest of a content
  std::map<std::string, std::optional<TokenValue>> named_;  // a null in the file is an empty one
  // Other keys that end in _token, in the two groups in which transformers adds them.
  std::vector<std::pair<std::string, TokenValue>> further_;
  std::vector<std::pair<std::string, TokenValue>> further_texts_;  // replace those of the same key
};

}  // namespace flux
