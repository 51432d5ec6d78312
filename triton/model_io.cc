#include "triton/model_io.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "support/error.h"
#include "support/json_file.h"
#include "support/log.h"
#include "triton/model_settings.h"

namespace flux::triton {
namespace {

using Json = nlohmann::json;

/// The name of a type in config.pbtxt.
std::string config_type(DataType type) {
  if (type == DataType::kBytes) return "TYPE_STRING";
  return fmt::format("TYPE_{}", api().TRITONSERVER_DataTypeString(type));
}

/// An integer of the server's JSON, where some are texts; nothing for another value.
std::optional<int64_t> integer_of(const Json& value) {
  if (value.is_number_integer()) return value.get<int64_t>();
  if (!value.is_string()) return std::nullopt;
  const auto text = value.get<std::string>();
  char* end = nullptr;
  const int64_t number = std::strtoll(text.c_str(), &end, 10);
  return text.empty() || *end != '\0' ? std::nullopt : std::optional(number);
}

std::vector<int64_t> dims_of(const Json& tensor) {
  std::vector<int64_t> dims;
  for (const Json& dim : tensor.value("dims", Json::array())) {
    dims.push_back(integer_of(dim).value_or(0));
  }
  return dims;
}

/// Checks one model's config.
class ConfigCheck {
 public:
  explicit ConfigCheck(const ModelSettings& settings)
      : settings_(settings), config_(settings.config) {}

  void batching(const ModelIo& io) const {
    const int64_t most = integer_of(config_.value("max_batch_size", Json(0))).value_or(0);
    if (most < 1) refuse("max_batch_size is {}: must be 1 or more", most);
    for (const char* field : {"sequence_batching", "ensemble_scheduling"}) {
      if (is_set(field)) refuse("{} is set: requests of this model do not belong together", field);
    }
    const bool decoupled = config_.value("/model_transaction_policy/decoupled"_json_pointer, false);
    if (decoupled && !io.decoupled) {
      refuse("model_transaction_policy is decoupled: this model gives one answer a request");
    }
    if (!decoupled && io.decoupled) {
      refuse("model_transaction_policy is not decoupled: this model answers a request many times");
    }
    if (config_.value("/response_cache/enable"_json_pointer, false)) {
      refuse("response_cache is enabled: it takes requests that differ in parameters for the same");
    }
    if (!io.may_warm_up && is_set("model_warmup")) {
      refuse(
          "model_warmup is set: this model calls others, which are not ready when a server warms "
          "up; send a request when the server is ready");
    }
  }

  void tensors(const char* field, const std::vector<TensorSpec>& specs) const {
    const Json given = config_.value(field, Json::array());
    for (const Json& tensor : given) {
      const auto name = tensor.value("name", std::string());
      const auto spec = std::find_if(specs.begin(), specs.end(),
                                     [&](const TensorSpec& each) { return each.name == name; });
      if (spec == specs.end()) {
        std::vector<std::string> names;
        for (const TensorSpec& each : specs) names.push_back(each.name);
        refuse("{} '{}' is not known: must be {}", field, name, fmt::join(names, ", "));
      }
      const auto type = tensor.value("data_type", std::string());
      if (type != config_type(spec->type)) {
        refuse("{} '{}' has data_type {}: must be {}{}", field, name, type, config_type(spec->type),
               spec->type == DataType::kFp32 || type == "TYPE_STRING" ? "" : of_dtype());
      }
      if (tensor.contains("reshape")) {
        refuse("{} '{}' has a reshape: this model takes and gives the dims as they are", field,
               name);
      }
      // Triton itself would refuse each request that leaves it out.
      if (spec->optional && !tensor.value("optional", false)) {
        refuse("{} '{}' is not optional: must be optional: true", field, name);
      }
      const std::vector<int64_t> dims = dims_of(tensor);
      if (dims != spec->dims) {
        refuse("{} '{}' has dims [ {} ]: must be [ {} ]", field, name, fmt::join(dims, ", "),
               fmt::join(spec->dims, ", "));
      }
    }
    for (const TensorSpec& spec : specs) {
      if (spec.optional) continue;
      const bool there = std::any_of(given.begin(), given.end(), [&](const Json& tensor) {
        return tensor.value("name", std::string()) == spec.name;
      });
      if (!there) refuse("{} '{}' is missing", field, spec.name);
    }
  }

  void parameters(const std::vector<std::string>& known) const {
    const Json given = config_.value("parameters", Json::object());
    for (const auto& [name, value] : given.items()) {
      if (name == "dtype" || name == "device") continue;
      if (std::find(known.begin(), known.end(), name) != known.end()) continue;
      log_warning("model '{}': parameter '{}' of config.pbtxt has no meaning: use {}{}",
                  settings_.name, name,
                  known.empty() ? "" : fmt::format("{}, ", fmt::join(known, ", ")),
                  "dtype or device");
    }
  }

 private:
  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorCode::kInvalidArgument,
         "model '{}': config.pbtxt: {}; change it, or make the repository again with flux-triton "
         "convert",
         settings_.name, fmt::format(format, std::forward<Args>(args)...));
  }

  bool is_set(const char* field) const {
    const auto found = config_.find(field);
    return found != config_.end() && !found->empty();
  }

  std::string of_dtype() const {
    return fmt::format(", as parameter 'dtype' is {}", name_of(settings_.dtype));
  }

  const ModelSettings& settings_;
  const Json& config_;
};

}  // namespace

void check_config(const ModelSettings& settings, const ModelIo& io) {
  const ConfigCheck check(settings);
  check.batching(io);
  check.tensors("input", io.inputs);
  check.tensors("output", io.outputs);
  check.parameters(io.parameters);
}

}  // namespace flux::triton
