#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace flux {

/// Byte-level byte pair encoding with an end-of-word mark, as in CLIP (Sennrich et al. 2016,
/// Radford et al. 2019): each byte of a word is one character of the alphabet, "</w>" is appended
/// to the last, then the neighbours whose pair was learnt first are merged until no pair is left.
class BpeModel {
 public:
  using Pieces = std::vector<std::pair<std::string, int32_t>>;
  using Merges = std::vector<std::pair<std::string, std::string>>;

  /// Names the files of pieces and merges in errors; often they are the same.
  struct Sources {
    std::string pieces;
    std::string merges;
  };

  /// Throws kInvalidArgument when a piece or an id is there twice, or a merge names or makes a
  /// piece that is not in the vocabulary.
  BpeModel(Pieces pieces, const Merges& merges, const std::string& unknown, const Sources& sources);

  /// Id of a piece, or -1.
  int32_t find(std::string_view piece) const;

  int32_t size() const { return static_cast<int32_t>(pieces_.size()); }
  int32_t max_id() const { return max_id_; }

  /// Appends the ids of one word (any bytes), in n log n time. A byte outside the alphabet gives
  /// the unknown token; throws kInvalidArgument when that is not in the vocabulary either.
  void encode_word(std::string_view word, std::vector<int32_t>& ids) const;

 private:
  struct Slot {
    uint32_t hash = 0;
    int32_t piece = -1;  // index of pieces_; -1: free
  };
  struct Merge {
    uint64_t pair = kNoPair;  // left << 32 | right
    int32_t rank = 0;
    int32_t id = 0;
  };
  static constexpr uint64_t kNoPair = ~uint64_t{0};

  // Where a piece, or a pair, is or would be.
  size_t piece_slot(std::string_view piece, uint32_t hash) const;
  size_t merge_slot(uint64_t pair) const;
  const Merge* merge_of(int32_t left, int32_t right) const;
  void index_pieces(const std::string& source);
  void index_merges(const Merges& merges, const std::string& source);

  // Both tables are open-addressing hash tables of a power of two: with a hundred thousand entries,
  // loading time is mostly cache misses.
  Pieces pieces_;
  std::vector<Slot> slots_;
  std::vector<Merge> merges_;
  std::array<int32_t, 256> byte_ids_;       // a byte inside a word
  std::array<int32_t, 256> last_byte_ids_;  // a byte at its end
  std::string unknown_;
  int32_t unknown_id_;
  int32_t max_id_ = -1;
};

}  // namespace flux
