#include "adapters/trainer_notes.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "support/error.h"
#include "support/json_file.h"
#include "support/json_outline.h"
#include "support/utf8.h"

namespace flux {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxJsonBytes = size_t{4} << 20;
constexpr int kMaxJsonDepth = 8;
constexpr size_t kMostWords = 8;
constexpr uint64_t kMostImages = 1'000'000;  // of a tag in a folder
constexpr size_t kMostAlphas = 4096;

// The keys that diffusers, kohya, ai-toolkit and OneTrainer write.
constexpr std::string_view kShown[] = {
    "ss_base_model_version",    "ss_output_name",         "ss_network_module",
    "ss_network_dim",           "ss_network_alpha",       "ss_network_args",
    "ss_sd_model_name",         "modelspec.architecture", "modelspec.title",
    "modelspec.trigger_phrase",
};

/// The JSON of a note; nothing where it is none, or larger or deeper than such notes are.
std::optional<Json> parse_note(std::string_view text) {
  if (text.size() > kMaxJsonBytes) return std::nullopt;
  if (outline_of(text, kMaxJsonDepth).depth > kMaxJsonDepth) return std::nullopt;
  Json note = Json::parse(text.begin(), text.end(), nullptr, false);
  return note.is_discarded() ? std::nullopt : std::optional(std::move(note));
}

/// The tags of kohya's note {folder: {tag: images}}, those of most images first.
std::string most_frequent_tags(const Json& folders) {
  std::map<std::string, uint64_t> counts;
  if (!folders.is_object()) return "";
  for (const Json& tags : folders) {
    if (!tags.is_object()) continue;
    for (const auto& [tag, count] : tags.items()) {
      if (count.is_number_unsigned()) {
        counts[tag] += std::min(count.get<uint64_t>(), kMostImages);
      }
    }
  }
  std::vector<std::pair<std::string, uint64_t>> order(counts.begin(), counts.end());
  std::stable_sort(order.begin(), order.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  if (order.size() > kMostWords) order.resize(kMostWords);
  std::vector<std::string> words;
  for (const auto& [tag, count] : order) words.push_back(excerpt(tag));
  return fmt::format("{}", fmt::join(words, ", "));
}

std::string shortened(std::string_view text) {
  return std::string(first_bytes(text, TrainerNotes::kMaxNoteBytes));
}

/// Whether a key of alpha_pattern, which ends the name of a module, is of this one.
bool ends_with_part(std::string_view name, std::string_view key) {
  if (!name.ends_with(key)) return false;
  return name.size() == key.size() || name[name.size() - key.size() - 1] == '.';
}

}  // namespace

TrainerNotes::TrainerNotes(const std::string& file, const Texts& metadata) {
  for (const std::string_view key : kShown) {
    const auto found = metadata.find(key);
    if (found != metadata.end()) shown_[std::string(key)] = shortened(found->second);
  }
  const auto tags = metadata.find("ss_tag_frequency");
  if (tags != metadata.end()) {
    const std::string words = most_frequent_tags(parse_note(tags->second).value_or(Json()));
    if (!words.empty()) shown_["trigger_words"] = shortened(words);
  }
  const auto configs = metadata.find("lora_adapter_metadata");
  if (configs != metadata.end()) read_configs(file, configs->second);
}

void TrainerNotes::read_configs(const std::string& file, const std::string& text) {
  constexpr std::string_view kNote = "metadata 'lora_adapter_metadata'";
  const auto refuse = [&](std::string_view key, const Json& value, std::string_view expected) {
    fail(ErrorCode::kInvalidArgument, "{}: {}: '{}' is {}, expected {}; save the adapter again",
         file, kNote, excerpt(key), quoted(value), expected);
  };
  const auto number = [&](std::string_view key, const Json& value) {
    const bool fits = value.is_number() && std::isfinite(value.get<float>());
    if (!fits) refuse(key, value, "a finite number");
    return value.get<double>();
  };
  const auto note = parse_note(text);
  check(note.has_value() && note->is_object(), ErrorCode::kInvalidArgument,
        "{}: {} is no JSON object of at most {} bytes; save the adapter again", file, kNote,
        kMaxJsonBytes);
  for (const auto& [key, value] : note->items()) {
    const size_t dot = std::min(key.rfind('.'), key.size());
    const std::string prefix = key.substr(0, dot);
    const std::string_view field = std::string_view(key).substr(std::min(dot + 1, key.size()));
    if (field == "lora_alpha") {
      configs_[prefix].alpha = number(key, value);
    } else if (field == "use_rslora") {
      if (!value.is_boolean()) refuse(key, value, "true or false");
      configs_[prefix].rank_stabilised = value.get<bool>();
    } else if (field == "alpha_pattern") {
      if (!value.is_object() || value.size() > kMostAlphas) {
        refuse(key, value, fmt::format("an object of at most {} modules", kMostAlphas));
      }
      for (const auto& [module, alpha] : value.items()) {
        configs_[prefix].alphas[module] = number(module, alpha);
        if (module.find_first_of("^$*+?()[]{}|\\") != module.npos) {
          refuse(key, value, "names of modules, not patterns of them");
        }
      }
    }
  }
}

std::optional<double> TrainerNotes::scale_of(std::string_view module, int64_t rank) const {
  const size_t dot = std::min(module.find('.'), module.size());
  const auto found = configs_.find(module.substr(0, dot));
  if (found == configs_.end()) return std::nullopt;
  const Config& config = found->second;
  double alpha = config.alpha;
  size_t longest = 0;  // the name that says most counts
  for (const auto& [name, own] : config.alphas) {
    if (name.size() < longest || !ends_with_part(module, name)) continue;
    alpha = own;
    longest = name.size();
  }
  const auto size = static_cast<double>(rank);
  return alpha / (config.rank_stabilised ? std::sqrt(size) : size);
}

}  // namespace flux
