#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/byte_trie.h"

namespace flux {

/// A unigram language model over pieces (Kudo 2018): a word is split so that the sum of the log
/// probabilities of its pieces is largest. Follows `Unigram` of the Hugging Face `tokenizers`
/// library: double precision, the earlier start wins a tie, neighbouring unknown characters become
/// one unknown token.
class UnigramModel {
 public:
  using Pieces =
      std::vector<std::pair<std::string, double>>;  // text and score; the index is the id

  /// `source` names the file in errors: kInvalidArgument when there are no more pieces than
  /// `unknown_id`, a piece is invalid (not UTF-8, over 1024 bytes) or a score not finite.
  UnigramModel(const Pieces& pieces, int32_t unknown_id, const std::string& source);

  /// Id of a piece, or -1.
  int32_t find(std::string_view piece) const { return trie_.find(piece); }

  int32_t size() const { return static_cast<int32_t>(scores_.size()); }

  /// Appends the ids of one word, which must be valid UTF-8. The time is proportional to its length
  /// times that of the longest piece.
  void encode_word(std::string_view word, std::vector<int32_t>& ids) const;

 private:
  ByteTrie trie_;
  std::vector<double> scores_;
  int32_t unknown_id_;
  double unknown_score_;
};

}  // namespace flux
