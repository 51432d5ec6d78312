#include "front/api_keys.h"

#include <algorithm>
#include <sstream>

#include "support/error.h"
#include "support/file.h"
#include "support/trimmed.h"
#include "support/utf8.h"

namespace flux::front {
namespace {

constexpr size_t kMostBytes = size_t{64} << 10;
constexpr std::string_view kSpace = " \t\r";

/// Compares without an early end.
bool are_same(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned difference = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]);
    asm volatile("" : "+r"(difference));  // keeps the compiler from ending early
  }
  return difference == 0;
}

}  // namespace

ApiKeys::ApiKeys(const std::filesystem::path& file) {
  std::error_code unreadable;  // read_file() says why
  const bool is_empty = std::filesystem::is_empty(file, unreadable) && !unreadable;
  std::istringstream lines(is_empty ? "" : read_file(file, kMostBytes));
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    const std::string_view key = trimmed(line, kSpace);
    if (key.empty() || key.starts_with('#')) continue;
    // The key itself stays out of logs.
    check(std::all_of(key.begin(), key.end(), [](char c) { return c > ' ' && c < 0x7f; }),
          ErrorCode::kInvalidArgument,
          "{}: line {}: a key must be of printable ASCII characters without spaces", file, number);
    keys_.emplace_back(key);
  }
  check(!keys_.empty(), ErrorCode::kInvalidArgument,
        "{}: has no key; write one key a line, or leave the option out", file);
}

bool ApiKeys::has(std::string_view key) const {
  bool found = false;
  for (const std::string& each : keys_) found |= are_same(each, key);
  return found;
}

std::string_view shown_key(std::string_view authorization, std::string_view api_key) {
  constexpr std::string_view kScheme = "bearer ";
  if (lower_case(authorization.substr(0, kScheme.size())) == kScheme) {
    return trimmed(authorization.substr(kScheme.size()), kSpace);
  }
  return trimmed(api_key, kSpace);
}

}  // namespace flux::front
