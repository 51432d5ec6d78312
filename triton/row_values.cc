#include "triton/row_values.h"

#include <charconv>
#include <cmath>

#include "support/error.h"
#include "support/json_file.h"
#include "support/utf8.h"

namespace flux::triton {
namespace {

using Json = nlohmann::json;

int64_t parse_integer(const std::string& name, const std::string& text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  check(error == std::errc() && end == text.data() + text.size(), ErrorCode::kInvalidArgument,
        "parameter {} is '{}': must be an integer", name, excerpt(text));
  return value;
}

}  // namespace

std::string text_of_parameter(const std::string& name, const Json& value) {
  check(value.is_string(), ErrorCode::kInvalidArgument, "parameter {} is {}: must be a string",
        name, quoted(value));
  return value.get<std::string>();
}

int64_t integer_of_parameter(const std::string& name, const Json& value) {
  const double number = number_of_parameter(name, value);
  constexpr double kLargest = 9007199254740992.0;  // beyond, doubles are no exact integers
  if (value.is_number_integer()) return value.get<int64_t>();
  if (value.is_string()) return parse_integer(name, value.get<std::string>());
  check(std::floor(number) == number && std::abs(number) <= kLargest, ErrorCode::kInvalidArgument,
        "parameter {} is {}: must be an integer", name, quoted(value));
  return static_cast<int64_t>(number);
}

double number_of_parameter(const std::string& name, const Json& value) {
  if (value.is_number()) return value.get<double>();
  double number = 0;
  const std::string text = value.is_string() ? value.get<std::string>() : "";
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  check(!text.empty() && error == std::errc() && end == text.data() + text.size(),
        ErrorCode::kInvalidArgument, "parameter {} is {}: must be a number", name, quoted(value));
  return number;
}

std::string RowValues::given_name(std::string name, std::string_view alias) const {
  if (alias.empty() || alias == name || !request_.parameter(alias)) return name;
  check(!request_.has_input(name) && !request_.parameter(name), ErrorCode::kInvalidArgument,
        "{} and {} mean the same and are both given: give one", name, alias);
  return std::string(alias);
}

}  // namespace flux::triton
