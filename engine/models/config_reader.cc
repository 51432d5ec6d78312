#include "models/config_reader.h"

#include <cmath>

#include "support/error.h"
#include "support/json_file.h"

namespace flux {

ConfigReader::ConfigReader(const std::filesystem::path& file)
    : file_(file.string()), json_(read_json_file(file)) {
  check(json_.is_object(), ErrorCode::kInvalidArgument, "{}: not a JSON object", file_);
  if (const Json* quantized = find("quantization_config")) {
    const Json method = quantized->is_object() ? quantized->value("quant_method", Json()) : Json();
    refuse("quantization_config", method.is_null() ? *quantized : method,
           "weights quantised by a library are not supported; use the checkpoint in bf16, f16 or "
           "f32");
  }
}

ConfigReader ConfigReader::part(const char* key) const {
  const Json* value = find(key);
  return value != nullptr && value->is_object() ? ConfigReader(file_, *value) : *this;
}

int64_t ConfigReader::integer(const char* key, int64_t fallback, int64_t low, int64_t high) const {
  const Json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_number_integer() ||
      (value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(high))) {
    refuse(key, *value, fmt::format("expected an integer from {} to {}", low, high));
  }
  const auto number = value->get<int64_t>();
  if (number < low || number > high) {
    refuse(key, *value, fmt::format("expected an integer from {} to {}", low, high));
  }
  return number;
}

int64_t ConfigReader::size(const char* key, int64_t fallback) const {
  return integer(key, fallback, 1, kMaxSize);
}
int64_t ConfigReader::layers(const char* key, int64_t fallback) const {
  return integer(key, fallback, 1, kMaxLayers);
}

double ConfigReader::number(const char* key, double fallback, double low, double high) const {
  const Json* value = find(key);
  if (value == nullptr) return fallback;
  const double result = value->is_number() ? value->get<double>() : std::nan("");
  if (!(result >= low && result <= high)) {
    refuse(key, *value, fmt::format("expected a number from {} to {}", low, high));
  }
  return result;
}

bool ConfigReader::boolean(const char* key, bool fallback) const {
  const Json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) refuse(key, *value, "expected true or false");
  return value->get<bool>();
}

std::string ConfigReader::text(const char* key, const char* fallback) const {
  const Json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_string()) refuse(key, *value, "expected a text");
  return value->get<std::string>();
}

bool ConfigReader::is_list(const char* key) const {
  const Json* value = find(key);
  return value != nullptr && value->is_array();
}

std::vector<int64_t> ConfigReader::sizes(const char* key,
                                         const std::vector<int64_t>& fallback) const {
  const Json* value = find(key);
  if (value == nullptr) return fallback;
  constexpr size_t kMaxCount = 16;
  const char* wanted = "expected a list of 1 to 16 sizes from 1 to 1048576";
  if (!value->is_array() || value->empty() || value->size() > kMaxCount) {
    refuse(key, *value, wanted);
  }
  std::vector<int64_t> result;
  for (const Json& entry : *value) {
    const bool fits = entry.is_number_integer() && entry >= 1 && entry <= kMaxSize;
    if (!fits) refuse(key, *value, wanted);
    result.push_back(entry.get<int64_t>());
  }
  return result;
}

void ConfigReader::require(const char* key, const Json& expected) const {
  const Json* value = find(key);
  if (value != nullptr && *value != expected) {
    refuse(key, *value, fmt::format("only {} is supported", quoted(expected)));
  }
}

void ConfigReader::refuse(const char* key, const Json& value, const std::string& why) const {
  fail(ErrorCode::kInvalidArgument, "{}: '{}' is {}: {}", file_, key, quoted(value), why);
}
void ConfigReader::refuse(const std::string& why) const {
  fail(ErrorCode::kInvalidArgument, "{}: {}", file_, why);
}

const ConfigReader::Json* ConfigReader::find(const char* key) const {
  const auto entry = json_.find(key);
  return entry == json_.end() || entry->is_null() ? nullptr : &*entry;
}

}  // namespace flux
