#include "triton/model_settings.h"

#include <fmt/ranges.h>

#include "ops/registry.h"
#include "support/error.h"
#include "triton/errors.h"

namespace flux::triton {

bool ModelSettings::has_parameter(const char* key) const {
  return config.value("parameters", nlohmann::json::object()).contains(key);
}

std::string ModelSettings::parameter(const char* key) const {
  const auto parameters = config.value("parameters", nlohmann::json::object());
  const auto found = parameters.find(key);
  check(found != parameters.end() && found->contains("string_value"), ErrorCode::kInvalidArgument,
        "model '{}': config.pbtxt has no parameter '{}'; make the repository again with "
        "flux-triton convert",
        name, key);
  return (*found)["string_value"].get<std::string>();
}

int64_t ModelSettings::integer_parameter(const char* key) const {
  const std::string text = parameter(key);
  const bool digits =
      !text.empty() && text.size() < 10 && text.find_first_not_of("0123456789") == text.npos;
  check(digits, ErrorCode::kInvalidArgument,
        "model '{}': parameter '{}' of config.pbtxt is '{}': must be a number", name, key, text);
  return std::stoll(text);
}

ModelSettings read_settings(Model* model) {
  ModelSettings settings;
  const char* name = nullptr;
  check_ok(api().TRITONBACKEND_ModelName(model, &name));
  settings.name = name;
  const auto kind = parse_model_name(settings.name);
  check(kind.has_value(), ErrorCode::kInvalidArgument,
        "model '{}': its name must be, or end with _ and, one of {}, {}", settings.name,
        fmt::join(kModelNames, ", "), fmt::join(kOptionalModelNames, ", "));
  settings.kind = *kind;
  uint64_t version = 0;
  check_ok(api().TRITONBACKEND_ModelVersion(model, &version));
  int artifact_type = 0;
  const char* location = nullptr;
  check_ok(api().TRITONBACKEND_ModelRepository(model, &artifact_type, &location));
  settings.directory = std::filesystem::path(location) / std::to_string(version);
  Message* message = nullptr;
  check_ok(api().TRITONBACKEND_ModelConfig(model, 1, &message));
  const char* text = nullptr;
  size_t size = 0;
  ServerError* error = api().TRITONSERVER_MessageSerializeToJson(message, &text, &size);
  if (error == nullptr) settings.config = nlohmann::json::parse(std::string(text, size));
  log_and_drop(api().TRITONSERVER_MessageDelete(message), "reading a model's config");
  check_ok(error);
  check_ok(api().TRITONBACKEND_ModelServer(model, &settings.server));
  settings.dtype = parse_compute_dtype(settings.parameter("dtype"));
  if (has_quantization(settings.kind.kind) && settings.has_parameter("quantization")) {
    settings.quantization = parse_quantization(settings.parameter("quantization"));
  }
  if (has_attention_precision(settings.kind.kind) && settings.has_parameter("attention")) {
    settings.attention = parse_attention(settings.parameter("attention"));
  }
  settings.device = parse_device(settings.parameter("device"));
  settings.metrics = std::make_shared<Metrics>(settings.name);
  return settings;
}

}  // namespace flux::triton
