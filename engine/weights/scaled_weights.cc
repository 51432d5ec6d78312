#include "weights/scaled_weights.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "support/json_file.h"

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
  return fmt::format("is stored in ComfyUI's format {}, expected {} or a plain type",
                     format.is_string() ? quoted(format) : "that it does not name", kFormat);
}

/// The scales as f32 [1] or [rows]; undefined when they do not fit the weight.
ConstTensor scales_of(const StoredTensor& scale, const StoredTensor& weight) {
  if (!scale.is_plain() || !is_floating_point(scale.data.dtype())) return {};
  const int64_t count = scale.numel();
  const bool rows = count == weight.rows() && scale.shape.rank() > 0 && scale.shape[0] == count;
  if (count != 1 && !rows) return {};
  return to_dtype(scale.data.reshape({count}), DType::kF32);
}

void attach_scale(WeightEntries& entries, const std::string& weight, const WeightEntry& scale) {
  const auto found = entries.find(weight);
  if (found == entries.end() || !found->second.why_unreadable.empty()) return;
  StoredTensor& tensor = found->second.tensor;
  if (tensor.encoding != Encoding::kF8E4M3) {
    refuse(entries, weight,
           fmt::format("is stored as {} with a scale beside it: F8_E4M3 is expected then",
                       tensor.type_name()));
    return;
  }
  const ConstTensor scales =
      scale.why_unreadable.empty() ? scales_of(scale.tensor, tensor) : ConstTensor();
  if (!scales.defined()) {
    refuse(entries, weight, "has a scale that is neither one number nor one for each of its rows");
    return;
  }
  tensor.scales = scales;
}

void read_layer_format(WeightEntries& entries, const std::string& weight, const WeightEntry& note) {
  const StoredTensor& bytes = note.tensor;
  const bool text = note.why_unreadable.empty() && bytes.is_plain() &&
                    bytes.data.dtype() == DType::kU8 &&
                    bytes.data.bytes() <= static_cast<int64_t>(kMaxJsonBytes);
  const auto* begin = text ? static_cast<const char*>(bytes.data.raw()) : nullptr;
  const Json json =
      begin == nullptr ? Json() : Json::parse(begin, begin + bytes.data.bytes(), nullptr, false);
  const Json format = json.is_object() ? json.value("format", Json()) : Json();
  if (format != kFormat) refuse(entries, weight, other_format(format));
}

}  // namespace

void attach_scales(WeightEntries& entries) {
  using Attach = void (*)(WeightEntries&, const std::string&, const WeightEntry&);
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
      if (companion.attach != nullptr) companion.attach(entries, layer + ".weight", entry);
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
