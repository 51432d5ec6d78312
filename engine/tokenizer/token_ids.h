#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace flux {

/// Longest prompt that a tokenizer takes, in bytes of UTF-8.
inline constexpr size_t kMaxPromptBytes = 64 * 1024;

/// Input of a text encoder: one row of token ids.
struct TokenIds {
  std::vector<int32_t> ids;  // [max_length], padded
  bool truncated;            // the text had more tokens than fit
};

/// The end of a row that is cut or padded when it does not have `max_length` ids.
enum class Side { kLeft, kRight };

/// Format of a row: the tokens around the text's own, and the padding.
struct SequenceFormat {
  std::vector<int32_t> prefix;  // before the text, never cut
  std::vector<int32_t> suffix;  // after the text, never cut
  int32_t pad = 0;
  Side truncation_side = Side::kRight;
  Side padding_side = Side::kRight;
};

/// Throws kInvalidArgument when a prompt is longer than kMaxPromptBytes or not valid UTF-8.
void check_prompt(std::string_view text);

/// Cuts `ids` (the text's own tokens), surrounds and pads them to exactly `max_length` ids.
/// Throws kInvalidArgument when prefix and suffix alone do not fit.
TokenIds finish_sequence(const SequenceFormat& format, std::vector<int32_t> ids, int max_length);

}  // namespace flux
