#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/byte_trie.h"

namespace flux {

/// A token that is recognised in the text before the model sees it (`AddedToken` of the Hugging
/// Face `tokenizers` library).
struct AddedToken {
  std::string content;
  bool single_word = false;  // only where no word character stands beside it
  bool lstrip = false;       // also takes the white space before it
  bool rstrip = false;       // also takes the white space after it
  bool normalized = false;   // searched for in the normalised text instead of the raw one
  bool special = false;

  bool operator==(const AddedToken&) const = default;
};

/// The added tokens of a tokenizer: finds them in a text and passes on the text between them.
/// Const members may be called from several threads.
class AddedTokens {
 public:
  using Normalize = std::function<std::string(std::string_view)>;
  using EncodeText = std::function<void(std::string_view, std::vector<int32_t>&)>;

  /// `content_ids(content)` is the model's id of a token, or -1; `vocabulary_size` counts the
  /// model's own pieces: tokens unknown to the model get ids from there on, in the order given.
  /// With `split_special` special tokens in a text are read as ordinary text.
  /// Throws kInvalidArgument when a token is longer than 1024 bytes.
  AddedTokens(const std::vector<AddedToken>& tokens,
              const std::function<int32_t(std::string_view)>& content_ids, int32_t vocabulary_size,
              const Normalize& normalize, bool split_special);

  /// Id of an added token by its content, or -1.
  int32_t find(std::string_view content) const { return by_content_.find(content); }

  /// Largest id of an added token, or -1.
  int32_t max_id() const { return max_id_; }

  /// Appends the ids of `text` (valid UTF-8): added tokens are found from left to right, the
  /// longest first; what is between them goes through `normalize` and then `encode_text`.
  void encode(std::string_view text, const Normalize& normalize, const EncodeText& encode_text,
              std::vector<int32_t>& ids) const;

 private:
  struct Entry {
    AddedToken token;
    int32_t id;
  };
  // Calls `between(text)` and `found(id)` in the order of the text.
  void split(const ByteTrie& patterns, std::string_view text,
             const std::function<void(std::string_view)>& between,
             const std::function<void(int32_t)>& found) const;

  std::vector<Entry> entries_;
  ByteTrie by_content_;  // content -> id
  ByteTrie raw_;         // pattern -> index of entries_
  ByteTrie normalized_;
  bool split_special_;
  int32_t max_id_ = -1;
};

}  // namespace flux
