#include "tokenizer/unigram_model.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "support/error.h"
#include "tokenizer/tokenizer_files.h"
#include "tokenizer/unicode.h"

namespace flux {
namespace {

constexpr size_t kMaxPieceBytes = 1024;
// An unknown character scores this much below the worst piece.
constexpr double kUnknownPenalty = 10.0;

struct Best {
  double score = 0;
  int32_t start = -1;  // where the piece that ends here starts; -1: none ends here yet
  int32_t id = 0;
};

}  // namespace

UnigramModel::UnigramModel(const Pieces& pieces, int32_t unknown_id, const std::string& source)
    : unknown_id_(unknown_id) {
  check(unknown_id >= 0 && pieces.size() > static_cast<size_t>(unknown_id) &&
            pieces.size() <= static_cast<size_t>(kMaxTokenId),
        ErrorCode::kInvalidArgument,
        "{}: {} pieces; a T5 tokenizer has {} to {}: copy the file from the checkpoint again",
        source, pieces.size(), unknown_id + 1, kMaxTokenId);
  size_t bytes = 0;
  for (const auto& [piece, score] : pieces) bytes += piece.size();
  trie_.reserve(bytes / 2);
  scores_.reserve(pieces.size());
  double lowest = std::numeric_limits<double>::infinity();
  for (size_t id = 0; id < pieces.size(); ++id) {
    const auto& [piece, score] = pieces[id];
    check(piece.size() <= kMaxPieceBytes && unicode::is_valid(piece), ErrorCode::kInvalidArgument,
          "{}: piece {} is not UTF-8 of at most {} bytes ({} bytes); copy the file from the "
          "checkpoint "
          "again",
          source, id, kMaxPieceBytes, piece.size());
    check(std::isfinite(score), ErrorCode::kInvalidArgument,
          "{}: the score of piece {} (\"{}\") is {}; scores are finite: copy the file from the "
          "checkpoint again",
          source, id, piece, score);
    trie_.insert(piece, static_cast<int32_t>(id));
    scores_.push_back(score);
    lowest = std::min(lowest, score);
  }
  unknown_score_ = lowest - kUnknownPenalty;
}

void UnigramModel::encode_word(std::string_view word, std::vector<int32_t>& ids) const {
  std::vector<Best> best(word.size() + 1);
  const auto offer = [&best](size_t start, size_t end, double score, int32_t id) {
    Best& target = best[end];
    if (target.start < 0 || score > target.score) target = {score, static_cast<int32_t>(start), id};
  };
  for (size_t start = 0; start < word.size();) {
    const double before = best[start].score;
    size_t next = start;
    unicode::next(word, next);
    bool single = false;  // a piece of exactly one character
    ByteTrie::Node node = ByteTrie::kRoot;
    for (size_t i = start; i < word.size(); ++i) {
      const std::optional<ByteTrie::Node> child = trie_.step(node, word[i]);
      if (!child) break;
      node = *child;
      const int32_t id = trie_.value(node);
      if (id < 0) continue;
      offer(start, i + 1, scores_[static_cast<size_t>(id)] + before, id);
      single = single || i + 1 == next;
    }
    if (!single) offer(start, next, unknown_score_ + before, unknown_id_);
    start = next;
  }

  // The path is read back from the end; a run of unknown pieces is one token.
  std::vector<int32_t> reversed;
  for (size_t end = word.size(); end > 0;) {
    const Best& last = best[end];
    size_t start = static_cast<size_t>(last.start);
    int32_t id = last.id;
    if (id == unknown_id_) {
      while (start > 0 && best[start].id == unknown_id_) {
        start = static_cast<size_t>(best[start].start);
      }
      id = trie_.find(word.substr(start, end - start));
      if (id < 0) id = unknown_id_;
    }
    reversed.push_back(id);
    end = start;
  }
  ids.insert(ids.end(), reversed.rbegin(), reversed.rend());
}

}  // namespace flux
