#include "cli/server_arguments.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "cli/common.h"
#include "support/utf8.h"

namespace flux::cli {
namespace {

/// Arguments of tritonserver that have an option here: if repeated after `--`, we would poll the
/// wrong port.
constexpr std::array<std::string_view, 7> kOwnArguments = {
    "--http-address", "--http-port",       "--grpc-address",     "--grpc-port",
    "--metrics-port", "--metrics-address", "--backend-directory"};

/// Those with which it prints a page and ends.
constexpr std::array<std::string_view, 3> kPages = {"--help", "-h", "--version"};

template <size_t n>
bool contains(const std::array<std::string_view, n>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

std::vector<std::string> values_of(std::string_view name,
                                   const std::vector<std::string>& arguments) {
  std::vector<std::string> values;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string_view argument = arguments[i];
    const size_t equals = std::min(argument.find('='), argument.size());
    if (argument.substr(0, equals) != name) continue;
    if (equals < argument.size()) {
      values.emplace_back(argument.substr(equals + 1));
    } else if (i + 1 < arguments.size()) {
      values.push_back(arguments[i + 1]);
    }
  }
  return values;
}

void check_server_arguments(const std::vector<std::string>& arguments, const std::string& policy) {
  if (!arguments.empty() && !arguments.front().starts_with('-')) {
    throw UsageError(
        fmt::format("'{}' is one argument too many; put -- before what goes to tritonserver",
                    excerpt(arguments.front())));
  }
  for (const std::string& argument : arguments) {
    const std::string_view name = std::string_view(argument).substr(0, argument.find('='));
    if (contains(kOwnArguments, name)) {
      throw UsageError(fmt::format("{}: serve has an option for that; see --help", name));
    }
    if (contains(kPages, name)) {
      throw UsageError(fmt::format(
          "{}: the server would print that and end; run tritonserver {} by itself", name, name));
    }
  }
  if (policy.empty()) return;
  for (const std::string& value : values_of("--backend-config", arguments)) {
    if (!value.starts_with("flux,policy=")) continue;
    throw UsageError(
        fmt::format("--policy {} and --backend-config={}: leave one of them out", policy, value));
  }
}

LoadedModels::LoadedModels(const std::vector<std::string>& arguments)
    : named_(values_of("--load-model", arguments)) {
  const std::vector<std::string> modes = values_of("--model-control-mode", arguments);
  all_ = modes.empty() || modes.back() != "explicit" ||
         std::find(named_.begin(), named_.end(), "*") != named_.end();
  elsewhere_ = !values_of("--model-repository", arguments).empty() ||
               !values_of("--model-store", arguments).empty();
}

bool LoadedModels::has(const std::string& model) const {
  return all_ || std::find(named_.begin(), named_.end(), model) != named_.end();
}

}  // namespace flux::cli
