#include "tokenizer/added_tokens.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "support/error.h"
#include "tokenizer/unicode.h"

namespace flux {
namespace {

// This limit bounds the work on a prompt: a search from any position reads at most so many bytes.
constexpr size_t kMaxTokenBytes = 1024;

// Index of the character before `end`; precondition: end > 0.
size_t previous(std::string_view text, size_t end) {
  do {
    --end;
  } while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80);
  return end;
}

char32_t character(std::string_view text, size_t at) { return unicode::next(text, at); }

bool stands_alone(std::string_view text, size_t begin, size_t end) {
  return (begin == 0 || !unicode::is_word(character(text, previous(text, begin)))) &&
         (end == text.size() || !unicode::is_word(character(text, end)));
}

size_t skip_spaces_back(std::string_view text, size_t begin, size_t limit) {
  while (begin > limit) {
    const size_t before = previous(text, begin);
    if (!unicode::is_space(character(text, before))) break;
    begin = before;
  }
  return std::max(begin, limit);
}

size_t skip_spaces(std::string_view text, size_t end) {
  while (end < text.size()) {
    size_t after = end;
    if (!unicode::is_space(unicode::next(text, after))) break;
    end = after;
  }
  return end;
}

}  // namespace

AddedTokens::AddedTokens(const std::vector<AddedToken>& tokens,
                         const std::function<int32_t(std::string_view)>& content_ids,
                         int32_t vocabulary_size, const Normalize& normalize, bool split_special)
    : split_special_(split_special) {
  int32_t next_id = vocabulary_size;
  std::unordered_map<int32_t, size_t> by_id;
  std::unordered_set<std::string> special;
  for (const AddedToken& token : tokens) {
    if (token.content.empty()) continue;
    check(token.content.size() <= kMaxTokenBytes, ErrorCode::kInvalidArgument,
          "an added token has {} bytes; at most {} are supported: repair added_tokens in the "
          "tokenizer's files",
          token.content.size(), kMaxTokenBytes);
    int32_t id = by_content_.find(token.content);
    if (id < 0) id = content_ids(token.content);
    if (id < 0) id = next_id++;
    by_content_.insert(token.content, id);
    max_id_ = std::max(max_id_, id);
    // A later token with the same id replaces the earlier one.
    const auto [same, fresh] = by_id.try_emplace(id, entries_.size());
    if (fresh) entries_.push_back({});
    entries_[same->second] = {token, id};
    // Once special, a text stays special, whatever a later token with it says.
    if (token.special) special.insert(token.content);
  }
  for (size_t i = 0; i < entries_.size(); ++i) {
    AddedToken& token = entries_[i].token;
    token.special = special.contains(token.content);
    if (token.normalized) {
      normalized_.insert(normalize(token.content), static_cast<int32_t>(i));
    } else {
      raw_.insert(token.content, static_cast<int32_t>(i));
    }
  }
}

void AddedTokens::split(const ByteTrie& patterns, std::string_view text,
                        const std::function<void(std::string_view)>& between,
                        const std::function<void(int32_t)>& found) const {
  size_t done = 0;  // everything before it is passed on
  for (size_t at = 0; at < text.size();) {
    int32_t longest = -1;
    size_t stop = at;
    ByteTrie::Node node = ByteTrie::kRoot;
    for (size_t i = at; i < text.size(); ++i) {
      const std::optional<ByteTrie::Node> next = patterns.step(node, text[i]);
      if (!next) break;
      node = *next;
      if (patterns.value(node) >= 0) {
        longest = patterns.value(node);
        stop = i + 1;
      }
    }
    if (longest < 0) {
      ++at;
      continue;
    }
    const Entry& entry = entries_[static_cast<size_t>(longest)];
    size_t start = at;
    at = stop;  // a rejected match is not searched again
    if (split_special_ && entry.token.special) continue;
    if (entry.token.single_word && !stands_alone(text, start, stop)) continue;
    if (entry.token.lstrip) start = skip_spaces_back(text, start, done);
    if (entry.token.rstrip) stop = skip_spaces(text, stop);
    if (done < start) between(text.substr(done, start - done));
    found(entry.id);
    done = stop;
  }
  if (done < text.size()) between(text.substr(done));
}

void AddedTokens::encode(std::string_view text, const Normalize& normalize,
                         const EncodeText& encode_text, std::vector<int32_t>& ids) const {
  const auto found = [&ids](int32_t id) { ids.push_back(id); };
  const auto plain = [&](std::string_view part) { encode_text(part, ids); };
  const auto raw = [&](std::string_view part) {
    split(normalized_, normalize(part), plain, found);
  };
  split(raw_, text, raw, found);
}

}  // namespace flux
