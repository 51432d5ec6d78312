#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "triton/request.h"

namespace flux::triton {

/// A request parameter as a value. Each throws kInvalidArgument, naming the parameter, for one that
/// is none.
std::string text_of_parameter(const std::string& name, const nlohmann::json& value);
int64_t integer_of_parameter(const std::string& name, const nlohmann::json& value);
double number_of_parameter(const std::string& name, const nlohmann::json& value);

/// Optional inputs with one value a row: from the tensor of that name, else from the parameter.
class RowValues {
 public:
  explicit RowValues(const Request& request) : request_(request) {}

  /// The values of all rows. Value: std::string, int64_t or double. Throws kInvalidArgument, naming
  /// the input, for values of another kind, and for a value under both names.
  template <typename Value>
  std::vector<std::optional<Value>> column(std::string name, std::string_view alias = {}) const {
    name = given_name(std::move(name), alias);
    if (request_.has_input(name)) {
      const std::vector<Value> values = input<Value>(name);
      return {values.begin(), values.end()};
    }
    std::optional<Value> value;
    if (const auto found = request_.parameter(name)) value = converted<Value>(name, *found);
    return std::vector<std::optional<Value>>(static_cast<size_t>(request_.rows()), value);
  }

 private:
  /// `alias` where the request has that name, else `name`.
  std::string given_name(std::string name, std::string_view alias) const;

  template <typename Value>
  std::vector<Value> input(const std::string& name) const {
    if constexpr (std::is_same_v<Value, std::string>) return request_.strings(name);
    if constexpr (std::is_same_v<Value, int64_t>) return request_.integers(name);
    if constexpr (std::is_same_v<Value, double>) return request_.numbers(name);
  }

  template <typename Value>
  static Value converted(const std::string& name, const nlohmann::json& value) {
    if constexpr (std::is_same_v<Value, std::string>) return text_of_parameter(name, value);
    if constexpr (std::is_same_v<Value, int64_t>) return integer_of_parameter(name, value);
    if constexpr (std::is_same_v<Value, double>) return number_of_parameter(name, value);
  }

  const Request& request_;
};

}  // namespace flux::triton
