#include "weights/scaled_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <span>
#include <vector>

#include "support/json_file.h"
#include "tensor/format.h"

namespace flux {
namespace {

using Json = nlohmann::json;

constexpr const char* kFormat = "float8_e4m3fn";
constexpr size_t kMaxJsonBytes = 4096;  // of a layer's

void refuse(WeightEntries& entries, const std::string& weight, std::string why) {
  const auto found = entries.find(weight);
  if (found == entries.end() || !found->second.why_unreadable.empty()) return;
  found->second.why_unreadable = std::move(why);
  found->second.tensor = {};
}

std::string other_format(const Json& format) {
  return fmt::format(
      "is stored in ComfyUI's format {}, expected {} or a plain type; use another "
      "file of the model",
      format.is_string() ? quoted(format) : "that it does not name", kFormat);
}

/// The scales as f32 [1] or [rows]; undefined when they do not fit the weight.
ConstTensor scales_of(const StoredTensor& scale, const StoredTensor& weight) {
  if (!scale.is_plain() || !is_floating_point(scale.data.dtype())) return {};
  const int64_t count = scale.numel();
  const bool rows = count == weight.rows() && scale.shape.rank() > 0 && scale.shape[0] == count;
  if (count != 1 && !rows) return {};
  return decode(scale, DType::kF32).reshape({count});
}

/// A tensor beside a weight.
struct Beside {
  const std::string& name;
  const WeightEntry& entry;
};

void attach_scale(WeightEntries& entries, const std::string& weight, const Beside& beside) {
  const auto found = entries.find(weight);
  if (found == entries.end() || !found->second.why_unreadable.empty()) return;
  const auto refuse_for = [&](std::string why) {
    refuse(entries, weight,
           fmt::format("has the scale '{}', {}; use another file of the model", beside.name, why));
  };
  StoredTensor& tensor = found->second.tensor;
  if (tensor.encoding != Encoding::kF8E4M3) {
    return refuse_for(
        fmt::format("and is stored as {}: F8_E4M3 is expected then", tensor.type_name()));
  }
  if (!beside.entry.why_unreadable.empty()) {
    return refuse_for(fmt::format("which {}", beside.entry.why_unreadable));
  }
  const StoredTensor& scale = beside.entry.tensor;
  const ConstTensor scales = scales_of(scale, tensor);
  if (!scales.defined()) {
    return refuse_for(
        fmt::format("which has shape {} and is stored as {}: expected f32, bf16 or f16, one number "
                    "or one for each of the {} rows",
                    scale.shape, scale.type_name(), tensor.rows()));
  }
  const std::span<const float> values(scales.data<float>(), static_cast<size_t>(scales.numel()));
  const auto bad =
      std::find_if(values.begin(), values.end(), [](float value) { return !std::isfinite(value); });
  if (bad != values.end()) {
    return refuse_for(fmt::format("which holds {}: finite numbers are expected", *bad));
  }
  tensor.scales = scales;
}

void read_layer_format(WeightEntries& entries, const std::string& weight, const Beside& beside) {
  const WeightEntry& note = beside.entry;
  const StoredTensor& bytes = note.tensor;
  const bool is_text = note.why_unreadable.empty() && bytes.is_plain() &&
                       bytes.data.dtype() == DType::kU8 &&
                       bytes.bytes() <= static_cast<int64_t>(kMaxJsonBytes);
  std::string text(is_text ? static_cast<size_t>(bytes.bytes()) : 0, '\0');
  if (is_text) copy_bytes(bytes, text.data(), 1);
  const Json json = Json::parse(text, nullptr, false);
  const Json format = json.is_object() ? json.value("format", Json()) : Json();
  if (format != kFormat) refuse(entries, weight, other_format(format));
}

}  // namespace

void attach_scales(WeightEntries& entries) {
  using Attach = void (*)(WeightEntries&, const std::string&, const Beside&);
  struct Companion {
    std::string_view ending;
    Attach attach;  // null: it is only taken out
  };
  static constexpr Companion kCompanions[] = {
      {".scale_weight", attach_scale},     {".weight_scale", attach_scale},
      {".comfy_quant", read_layer_format}, {".scale_input", nullptr},
      {".input_scale", nullptr},
  };
  std::vector<std::string> done;
  for (const auto& [name, entry] : entries) {
    if (name == "scaled_fp8" || name.ends_with(".scaled_fp8")) done.push_back(name);
    for (const Companion& companion : kCompanions) {
      if (!name.ends_with(companion.ending)) continue;
      const std::string layer = name.substr(0, name.size() - companion.ending.size());
      // Another program's name that ends so belongs to no weight, and stays.
      if (!entries.contains(layer + ".weight")) continue;
      if (companion.attach != nullptr) companion.attach(entries, layer + ".weight", {name, entry});
      done.push_back(name);
    }
  }
  for (const std::string& name : done) entries.erase(name);
}

void mark_other_formats(WeightEntries& entries, std::string_view text) {
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains("layers") || !json["layers"].is_object()) return;
  for (const auto& [layer, entry] : json["layers"].items()) {
    const Json format = entry.is_object() ? entry.value("format", Json()) : Json();
    if (format == kFormat) continue;
    refuse(entries, layer + ".weight", other_format(format));
  }
}

}  // namespace flux
