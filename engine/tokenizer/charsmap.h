#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace flux {

/// The `precompiled_charsmap` of a sentencepiece model: a map from short character sequences to
/// their replacements (NFKC with additions), stored as a double-array trie (Darts-clone) and the
/// replacements as zero-terminated texts. Applied as the Hugging Face `Precompiled` normaliser
/// does, not as sentencepiece does: grapheme by grapheme.
class Charsmap {
 public:
  /// Makes an empty map, which changes nothing.
  Charsmap() = default;

  /// `source` names the file in errors: kInvalidArgument when the sizes do not agree or a
  /// replacement is not UTF-8.
  Charsmap(std::string_view bytes, const std::string& source);

  /// The normalised text; `text` must be valid UTF-8. Error kInvalidArgument when the trie turns
  /// out to be damaged where this text leads.
  std::string normalize(std::string_view text) const;

 private:
  // Finds the replacement of the text's shortest prefix in the map. Returns false if there is none.
  bool find(std::string_view text, std::string_view& replacement) const;
  uint32_t unit(size_t at) const;

  std::vector<uint32_t> units_;
  std::string replacements_;
  std::string source_;
};

}  // namespace flux
