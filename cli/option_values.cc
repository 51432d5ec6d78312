#include "cli/option_values.h"

#include <fmt/format.h>

#include <charconv>

#include "support/utf8.h"

namespace flux::cli {

CLI::Validator whole_number(int64_t low, int64_t high) {
  const auto normalize = [low, high](std::string& text) -> std::string {
    int64_t value = 0;
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    if (stop != end || error == std::errc::invalid_argument) {
      return fmt::format("'{}' is no whole number", excerpt(text));
    }
    const bool bounded = high < std::numeric_limits<int64_t>::max();
    const bool fits = error == std::errc() && value >= low && value <= high;
    if (!fits)
      return bounded ? fmt::format("{}: must be {} to {}", excerpt(text), low, high)
                     : fmt::format("{}: too large", excerpt(text));
    text = std::to_string(value);
    return {};
  };
  return CLI::Validator(normalize, "", "whole_number");
}

CLI::Validator decimal_number() {
  const auto examine = [](std::string& text) -> std::string {
    double value = 0;
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    if (stop == end && error == std::errc()) return {};
    return fmt::format("'{}' is no decimal number such as 3.5", excerpt(text));
  };
  return CLI::Validator(examine, "", "decimal_number");
}

}  // namespace flux::cli
