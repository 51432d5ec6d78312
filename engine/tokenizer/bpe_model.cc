#include "tokenizer/bpe_model.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <queue>
#include <tuple>

#include "support/error.h"
#include "tokenizer/tokenizer_files.h"
#include "tokenizer/unicode.h"

namespace flux {
namespace {

constexpr std::string_view kEndOfWord = "</w>";

// The printable character that stands for each byte (GPT-2's alphabet): printable Latin-1 stands
// for itself, the others for U+0100 and up.
std::array<char32_t, 256> byte_alphabet() {
  std::array<char32_t, 256> alphabet;
  char32_t next = 0x100;
  for (char32_t b = 0; b < 256; ++b) {
    const bool printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
    alphabet[b] = printable ? b : next++;
  }
  return alphabet;
}

uint64_t pair_key(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

uint32_t hash_of(std::string_view text) {
  return static_cast<uint32_t>(std::hash<std::string_view>{}(text));
}

struct Symbol {
  int32_t id;
  int32_t previous;
  int32_t next;  // -1: the last one
  bool removed = false;
};

}  // namespace

BpeModel::BpeModel(Pieces pieces, const Merges& merges, const std::string& unknown,
                   const Sources& sources)
    : pieces_(std::move(pieces)),
      slots_(std::bit_ceil(pieces_.size() * 2 + 1)),
      merges_(std::bit_ceil(merges.size() * 2 + 1)),
      unknown_(unknown) {
  index_pieces(sources.pieces);
  index_merges(merges, sources.merges);
  const std::array<char32_t, 256> alphabet = byte_alphabet();
  for (size_t b = 0; b < 256; ++b) {
    std::string character;
    unicode::append(character, alphabet[b]);
    byte_ids_[b] = find(character);
    last_byte_ids_[b] = find(character.append(kEndOfWord));
  }
  unknown_id_ = find(unknown);
}

void BpeModel::index_pieces(const std::string& source) {
  std::vector<bool> taken;
  for (size_t i = 0; i < pieces_.size(); ++i) {
    const auto& [piece, id] = pieces_[i];
    check(id >= 0 && id <= kMaxTokenId, ErrorCode::kInvalidArgument,
          "{}: id {}; allowed are 0 to {}; copy the file from the checkpoint again", source, id,
          kMaxTokenId);
    const size_t at = static_cast<size_t>(id);
    if (at >= taken.size()) taken.resize(std::max(at + 1, taken.size() * 2));
    check(!taken[at], ErrorCode::kInvalidArgument,
          "{}: two pieces have the id {} (one is \"{}\"); copy the file from the checkpoint again",
          source, id, piece);
    taken[at] = true;
    max_id_ = std::max(max_id_, id);
    const uint32_t hash = hash_of(piece);
    Slot& slot = slots_[piece_slot(piece, hash)];
    check(slot.piece < 0, ErrorCode::kInvalidArgument,
          "{}: the piece \"{}\" is there twice; copy the file from the checkpoint again", source,
          piece);
    slot = {hash, static_cast<int32_t>(i)};
  }
}

void BpeModel::index_merges(const Merges& merges, const std::string& source) {
  std::string merged;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    merged.assign(left).append(right);
    const std::array<int32_t, 3> ids = {find(left), find(right), find(merged)};
    for (size_t i = 0; i < ids.size(); ++i) {
      check(ids[i] >= 0, ErrorCode::kInvalidArgument,
            "{}: merge {} (\"{} {}\") needs the piece \"{}\", which is not in the vocabulary; "
            "vocabulary "
            "and merges must come from one checkpoint",
            source, rank, left, right,
            i == 0   ? left
            : i == 1 ? right
                     : merged);
    }
    // The later of two merges of one pair wins.
    const uint64_t pair = pair_key(ids[0], ids[1]);
    merges_[merge_slot(pair)] = {pair, static_cast<int32_t>(rank), ids[2]};
  }
}

size_t BpeModel::piece_slot(std::string_view piece, uint32_t hash) const {
  const size_t mask = slots_.size() - 1;
  size_t at = hash & mask;
  while (slots_[at].piece >= 0 && (slots_[at].hash != hash ||
                                   pieces_[static_cast<size_t>(slots_[at].piece)].first != piece)) {
    at = (at + 1) & mask;
  }
  return at;
}

size_t BpeModel::merge_slot(uint64_t pair) const {
  const size_t mask = merges_.size() - 1;
  size_t at = static_cast<size_t>((pair * 0x9e3779b97f4a7c15ull) >> 32) & mask;
  while (merges_[at].pair != kNoPair && merges_[at].pair != pair) at = (at + 1) & mask;
  return at;
}

int32_t BpeModel::find(std::string_view piece) const {
  const Slot& slot = slots_[piece_slot(piece, hash_of(piece))];
  return slot.piece < 0 ? -1 : pieces_[static_cast<size_t>(slot.piece)].second;
}

const BpeModel::Merge* BpeModel::merge_of(int32_t left, int32_t right) const {
  const Merge& merge = merges_[merge_slot(pair_key(left, right))];
  return merge.pair == kNoPair ? nullptr : &merge;
}

void BpeModel::encode_word(std::string_view word, std::vector<int32_t>& ids) const {
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  for (size_t i = 0; i < word.size(); ++i) {
    const auto byte = static_cast<unsigned char>(word[i]);
    int32_t id = i + 1 == word.size() ? last_byte_ids_[byte] : byte_ids_[byte];
    if (id < 0) id = unknown_id_;
    check(
        id >= 0, ErrorCode::kInvalidArgument,
        "byte 0x{:02x} of the text is not in the CLIP vocabulary, and neither is the unknown token "
        "\"{}\"; copy the tokenizer's files from the checkpoint again",
        static_cast<unsigned>(byte), unknown_);
    const int32_t at = static_cast<int32_t>(i);
    symbols.push_back({id, at - 1, i + 1 == word.size() ? -1 : at + 1});
  }

  // The queue gives the earliest merge first, and the leftmost among equals. Entries may be stale:
  // they are checked again when they are popped.
  using Entry = std::tuple<int32_t, int32_t, int32_t>;  // rank, position of the left symbol, new id
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> queue;
  const auto push = [&](int32_t left) {
    if (left < 0) return;
    const Symbol& symbol = symbols[static_cast<size_t>(left)];
    if (symbol.next < 0) return;
    const Merge* merge = merge_of(symbol.id, symbols[static_cast<size_t>(symbol.next)].id);
    if (merge != nullptr) queue.emplace(merge->rank, left, merge->id);
  };
  for (size_t i = 0; i + 1 < symbols.size(); ++i) push(static_cast<int32_t>(i));
  while (!queue.empty()) {
    const auto [rank, at, new_id] = queue.top();
    queue.pop();
    Symbol& left = symbols[static_cast<size_t>(at)];
    if (left.removed || left.next < 0) continue;
    Symbol& right = symbols[static_cast<size_t>(left.next)];
    const Merge* merge = merge_of(left.id, right.id);
    if (merge == nullptr || merge->id != new_id) continue;
    left.id = new_id;
    left.next = right.next;
    right.removed = true;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = at;
    push(left.previous);
    push(at);
  }
  for (const Symbol& symbol : symbols) {
    if (!symbol.removed) ids.push_back(symbol.id);
  }
}

}  // namespace flux
