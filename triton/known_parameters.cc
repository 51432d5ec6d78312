#include "triton/known_parameters.h"

#include <algorithm>
#include <iterator>

namespace flux::triton {
namespace {

/// Those of the server and of its HTTP endpoints.
constexpr std::string_view kServers[] = {"timeout",
                                         "priority",
                                         "sequence_id",
                                         "sequence_start",
                                         "sequence_end",
                                         "binary_data",
                                         "binary_data_output",
                                         "stream",
                                         "id"};

bool contains(std::span<const std::string_view> names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

std::optional<std::string> unknown_parameter(const Request& request,
                                             std::span<const std::string_view> known) {
  for (const std::string& name : request.parameter_names()) {
    if (name.starts_with("triton_") || contains(kServers, name) || contains(known, name)) continue;
    return name;
  }
  return std::nullopt;
}

}  // namespace flux::triton
