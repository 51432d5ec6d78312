#include "support/byte_size.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string>

#include "support/error.h"
#include "support/utf8.h"

namespace flux {

int64_t parse_byte_size(std::string_view text) {
  constexpr std::string_view kUnits = "kmgtpe";
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value, std::chars_format::fixed);
  std::string unit = lower_case({stop, static_cast<size_t>(end - stop)});
  unit.erase(0, std::min(unit.find_first_not_of(' '), unit.size()));
  const size_t power = unit.empty() ? kUnits.npos : kUnits.find(unit.front());
  const bool known = unit.empty() || unit == "b" ||
                     (power != kUnits.npos &&
                      (unit.substr(1) == "" || unit.substr(1) == "b" || unit.substr(1) == "ib"));
  if (power != kUnits.npos) value = std::ldexp(value, 10 * static_cast<int>(power + 1));
  const bool fits = value >= 1 && value < std::ldexp(1.0, 63);
  check(error == std::errc() && known && fits, ErrorCode::kInvalidArgument,
        "'{}' is no size: give a number above 0 and a unit, B, KiB, MiB, GiB or TiB, such as 20GiB",
        excerpt(text));
  return static_cast<int64_t>(value);
}

}  // namespace flux
