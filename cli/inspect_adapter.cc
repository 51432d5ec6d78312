#include "cli/inspect_adapter.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "adapters/adapter_file.h"
#include "adapters/foreign.h"
#include "cli/common.h"
#include "support/file.h"
#include "support/utf8.h"

namespace flux::cli {
namespace {

constexpr AdapterModel kModels[] = {AdapterModel::kTransformer, AdapterModel::kClip,
                                    AdapterModel::kT5};

/// The least and the greatest of some numbers; empty while there are none.
struct Range {
  std::vector<double> ends;

  void add(double value) {
    if (ends.empty()) ends = {value, value};
    ends = {std::min(ends[0], value), std::max(ends[1], value)};
  }
  std::string text() const {
    if (ends.empty()) return "none";
    return ends[0] == ends[1] ? fmt::format("{:g}", ends[0])
                              : fmt::format("{:g} to {:g}", ends[0], ends[1]);
  }
};

/// The modules of a model that are changed, with their biases and without.
struct ModelSummary {
  std::set<std::string_view> modules;
  std::map<std::string_view, std::set<std::string_view>> kinds;
};

struct Summary {
  ModelSummary models[std::size(kModels)];
  Range rank;
  Range alpha;
  Range scale;
};

Summary summarise(const Adapter& adapter) {
  Summary summary;
  for (const Change& change : adapter.changes) {
    const Update& update = *change.update;
    ModelSummary& model = summary.models[static_cast<size_t>(change.model)];
    model.modules.insert(change.module);
    model.kinds[update.kind()].insert(change.module);
    if (update.rank == 0) continue;
    summary.rank.add(static_cast<double>(update.rank));
    summary.alpha.add(update.alpha);
    summary.scale.add(update.scale);
  }
  return summary;
}

/// "FLUX.1, hidden size 3072, blocks 19+38"
std::string base_text(const AdapterSizes& sizes) {
  const int64_t hidden = sizes[Width::kHidden];
  if (hidden == 0) return "not told by its tensors";
  const std::string_view model = model_of_width(hidden);
  return fmt::format("{}, hidden size {}, blocks {}+{}", model.empty() ? "another width" : model,
                     hidden, sizes.double_blocks, sizes.single_blocks);
}

/// "304 modules: 300 LoRA, 4 difference"
std::string modules_text(const ModelSummary& model) {
  if (model.modules.empty()) return "nothing";
  std::vector<std::string> kinds;
  for (const auto& [kind, modules] : model.kinds) {
    kinds.push_back(fmt::format("{} {}", modules.size(), kind));
  }
  return fmt::format("{}: {}", counted(std::ssize(model.modules), "module"),
                     fmt::join(kinds, ", "));
}

std::string unused_text(const std::vector<std::string>& names) {
  constexpr size_t kMost = 5;
  if (names.empty()) return "none";
  std::string text = counted(std::ssize(names), "tensor") + ":";
  for (size_t i = 0; i < std::min(names.size(), kMost); ++i) {
    text += fmt::format("{} '{}'", i == 0 ? "" : ",", one_line(excerpt(names[i])));
  }
  return text + (names.size() > kMost ? ", ..." : "");
}

std::string row(std::string_view label, std::string_view value) {
  return fmt::format("{:<15} {}\n", label, value);
}

nlohmann::json or_null(int64_t size) { return size == 0 ? nlohmann::json() : nlohmann::json(size); }

nlohmann::json base_json(const AdapterSizes& sizes) {
  const std::string_view model = model_of_width(sizes[Width::kHidden]);
  return {{"model", model.empty() ? nlohmann::json() : nlohmann::json(model)},
          {"hidden_size", or_null(sizes[Width::kHidden])},
          {"double_blocks", sizes.double_blocks},
          {"single_blocks", sizes.single_blocks},
          {"input_channels", or_null(sizes[Width::kInput])},
          {"clip_layers", sizes.clip_layers},
          {"t5_layers", sizes.t5_layers}};
}

}  // namespace

bool is_adapter_file(const std::filesystem::path& file) {
  std::error_code error;
  const std::string ending = ending_of(file);
  const bool named = ending == ".safetensors" || ending == ".sft";
  if (!named || !std::filesystem::is_regular_file(file, error)) return false;
  try {
    return is_adapter(*WeightFile::open(file));
  } catch (const Error&) {  // who opens it as a checkpoint says what is wrong
    return false;
  }
}

nlohmann::json adapter_json(const Adapter& adapter) {
  const Summary summary = summarise(adapter);
  nlohmann::json object = {{"file", adapter.file},
                           {"dialects", adapter.dialects},
                           {"base", base_json(adapter.sizes)},
                           {"rank", summary.rank.ends},
                           {"alpha", summary.alpha.ends},
                           {"scale", summary.scale.ends},
                           {"tensors", adapter.tensors},
                           {"bytes", adapter.bytes},
                           {"unused", adapter.unused},
                           {"notes", adapter.notes}};
  for (const AdapterModel model : kModels) {
    const ModelSummary& changed = summary.models[static_cast<size_t>(model)];
    auto kinds = nlohmann::json::object();
    for (const auto& [kind, modules] : changed.kinds) kinds[std::string(kind)] = modules.size();
    object["modules"][std::string(name_of(model))] = {{"count", changed.modules.size()},
                                                      {"kinds", kinds}};
  }
  return object;
}

std::string adapter_text(const Adapter& adapter) {
  const Summary summary = summarise(adapter);
  std::string text = row("adapter", one_line(adapter.file));
  text += row("names", fmt::format("{}", fmt::join(adapter.dialects, ", ")));
  text += row("base", base_text(adapter.sizes));
  for (const AdapterModel model : kModels) {
    text += row(name_of(model), modules_text(summary.models[static_cast<size_t>(model)]));
  }
  text += row("rank", fmt::format("{}, alpha {}, scale {}", summary.rank.text(),
                                  summary.alpha.text(), summary.scale.text()));
  text += row("tensors", fmt::format("{}, {}", adapter.tensors, format_bytes(adapter.bytes)));
  text += row("unused", unused_text(adapter.unused));
  if (!adapter.notes.empty()) text += "\n";
  for (const auto& [key, value] : adapter.notes) {
    text += fmt::format("{:<24} {}\n", key, one_line(value));
  }
  return text;
}

}  // namespace flux::cli
