#include "tokenizer/token_ids.h"

#include "support/error.h"
#include "tokenizer/unicode.h"

namespace flux {

void check_prompt(std::string_view text) {
  check(text.size() <= kMaxPromptBytes, ErrorCode::kInvalidArgument,
        "the prompt has {} bytes; at most {} are allowed: shorten it", text.size(),
        kMaxPromptBytes);
  if (!unicode::is_valid(text)) unicode::decode(text);  // throws, naming the place
}

TokenIds finish_sequence(const SequenceFormat& format, std::vector<int32_t> ids, int max_length) {
  const size_t surround = format.prefix.size() + format.suffix.size();
  check(max_length > 0 && static_cast<size_t>(max_length) >= surround, ErrorCode::kInvalidArgument,
        "max_length is {}, but the start and end tokens alone need {}: ask for at least that many",
        max_length, surround);
  const size_t length = static_cast<size_t>(max_length);
  const size_t room = length - surround;
  const bool truncated = ids.size() > room;
  if (truncated) {
    if (format.truncation_side == Side::kLeft) {
      ids.erase(ids.begin(), ids.end() - static_cast<ptrdiff_t>(room));
    } else {
      ids.resize(room);
    }
  }
  TokenIds row{{}, truncated};
  row.ids.reserve(length);
  const size_t padding = room - ids.size();
  if (format.padding_side == Side::kLeft) row.ids.assign(padding, format.pad);
  row.ids.insert(row.ids.end(), format.prefix.begin(), format.prefix.end());
  row.ids.insert(row.ids.end(), ids.begin(), ids.end());
  row.ids.insert(row.ids.end(), format.suffix.begin(), format.suffix.end());
  row.ids.resize(length, format.pad);
  return row;
}

}  // namespace flux
