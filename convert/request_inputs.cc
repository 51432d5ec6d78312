#include "convert/request_inputs.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "pipeline/request_fields.h"
#include "support/error.h"
#include "tokenizer/token_ids.h"

namespace flux {
namespace {

using Json = nlohmann::ordered_json;

const char* wire_type(const TextField&) { return "STRING"; }
const char* wire_type(const SideField&) { return "INT32"; }
const char* wire_type(const NumberField&) { return "FP32"; }
const char* wire_type(const IntegerField& kind) {
  return std::holds_alternative<int ImageParams::*>(kind.checked) ? "INT32" : "INT64";
}

/// The comment beside a field's input.
std::string comment(const RequestField& field, const FluxConfig& config) {
  std::string allowed = allowed_in_words(field);
  std::string fallback = default_in_words(field);
  if (std::holds_alternative<SideField>(field.kind)) {
    allowed = fmt::format("a multiple of {}", config.size_multiple());
    fallback = fmt::format("default_{}, below", field.name);
  }
  const std::string text = fmt::format("{}, {}", field.meaning, allowed);
  return fallback.empty() ? text : fmt::format("{}; absent: {}", text, fallback);
}

Json to_json(const TextField& kind, const FluxConfig&) {
  return {{"type", "text"},
          {"max_bytes", kMaxPromptBytes},
          {"may_be_blank", kind.may_be_blank},
          {"required", kind.fallback.empty()}};
}

Json to_json(const IntegerField& kind, const FluxConfig& config) {
  const RequestLimits limits = limits_for(config);
  Json json = {{"type", "integer"}, {"low", kind.low}};
  const int64_t high = high_of(kind, limits);
  if (high != std::numeric_limits<int64_t>::max()) json["high"] = high;
  if (kind.fallback) json["default"] = default_of(kind, config, limits);
  return json;
}

Json to_json(const SideField&, const FluxConfig& config) {
  return {{"type", "side"}, {"multiple", config.size_multiple()}};
}

Json to_json(const NumberField& kind, const FluxConfig& config) {
  return {{"type", "number"},
          {"low", kind.low},
          {"high", kind.high},
          {"default", default_of(kind, config)}};
}

}  // namespace

std::string request_inputs(const FluxConfig& config) {
  std::string inputs;
  for (const RequestField& field : request_fields()) {
    inputs += fmt::format(
        "{}  {{\n"
        "    name: \"{}\"  # {}\n"
        "    data_type: TYPE_{}\n"
        "    dims: [ 1 ]\n",
        inputs.empty() ? "" : ",\n", field.name, comment(field, config),
        std::visit([](const auto& kind) { return wire_type(kind); }, field.kind));
    if (!default_in_words(field).empty()) inputs += "    optional: true\n";
    inputs += "  }";
  }
  return inputs;
}

std::string request_fields_json(const FluxConfig& config) {
  std::string lines;
  for (const RequestField& field : request_fields()) {
    Json line = {{"name", field.name}};
    if (alias_of(field) != field.name) line["alias"] = alias_of(field);
    line.update(std::visit([&](const auto& kind) { return to_json(kind, config); }, field.kind));
    lines += fmt::format("{}{}", lines.empty() ? "" : ",\n", line.dump());
  }
  return fmt::format("[\n{}\n]\n", lines);
}

}  // namespace flux
