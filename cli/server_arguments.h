#pragma once

#include <string>
#include <string_view>
#include <vector>

/// The arguments that follow `--` and go to tritonserver.
namespace flux::cli {

/// The values that `name` is given ("--load-model"), as `name=VALUE` or in the next argument.
std::vector<std::string> values_of(std::string_view name,
                                   const std::vector<std::string>& arguments);

/// Throws UsageError for arguments that serve has options for, and for those with which the server
/// prints something and ends. `policy`: the option's value, which may be empty.
void check_server_arguments(const std::vector<std::string>& arguments, const std::string& policy);

/// The models that a server loads at its start.
class LoadedModels {
 public:
  explicit LoadedModels(const std::vector<std::string>& arguments);

  /// Whether it loads all of them, and from this repository alone.
  bool are_all() const { return all_ && !elsewhere_; }
  bool has(const std::string& model) const;

 private:
  bool all_ = true;
  bool elsewhere_ = false;
  std::vector<std::string> named_;
};

}  // namespace flux::cli
