#include "weights/weight_files.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "support/error.h"
#include "support/file.h"
#include "support/json_file.h"
#include "weights/safetensors.h"

namespace flux {
namespace {

/// File names of the shards that an index lists, in alphabetical order.
std::map<std::string, std::vector<std::string>> read_index(const std::filesystem::path& file) {
  const nlohmann::json index = read_json_file(file);
  check(index.is_object() && index.contains("weight_map") && index["weight_map"].is_object() &&
            !index["weight_map"].empty(),
        ErrorCode::kInvalidArgument, "{}: no object 'weight_map' of tensor names and files", file);
  std::map<std::string, std::vector<std::string>> shards;
  for (const auto& [name, shard] : index["weight_map"].items()) {
    check(shard.is_string(), ErrorCode::kInvalidArgument,
          "{}: weight_map['{}'] is {}, expected a file name", file, name, shard.dump());
    const auto text = shard.get<std::string>();
    check(!text.empty() && text.find('/') == text.npos && text != "." && text != "..",
          ErrorCode::kInvalidArgument,
          "{}: weight_map['{}'] names '{}': a shard must be a file beside its index", file, name,
          text);
    shards[text].push_back(name);
  }
  return shards;
}

/// Words about a directory without the weights that are looked for: other variants or formats of
/// them that are there.
std::string what_is_there_instead(const std::filesystem::path& directory, std::string_view stem) {
  std::vector<std::string> variants;
  std::vector<std::string> pickles;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    const std::string extension = ending_of(entry.path());
    if (name.starts_with(fmt::format("{}.", stem)) && extension == ".safetensors") {
      variants.push_back(name);
    } else if (extension == ".bin" || extension == ".pt" || extension == ".pth") {
      pickles.push_back(name);
    }
  }
  if (!variants.empty()) {
    const std::string& first = *std::min_element(variants.begin(), variants.end());
    const std::string_view rest = std::string_view(first).substr(stem.size() + 1);
    return fmt::format(", but {}; take that variant with --variant {}", first,
                       rest.substr(0, rest.find_first_of(".-")));
  }
  if (!pickles.empty()) {
    const std::string& first = *std::min_element(pickles.begin(), pickles.end());
    return fmt::format(
        ", but {}, a pickle file of torch; the checkpoint must hold its weights as "
        "safetensors",
        first);
  }
  return "; the checkpoint must hold its weights as safetensors";
}

}  // namespace

bool WeightFiles::is_variant(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  });
}

std::filesystem::path WeightFiles::first_file(const std::filesystem::path& directory,
                                              std::string_view stem, std::string_view variant) {
  const std::string dotted = variant.empty() ? "" : fmt::format(".{}", variant);
  const std::string single = fmt::format("{}{}.safetensors", stem, dotted);
  std::vector<std::string> names = {
      fmt::format("{}.safetensors.index{}.json", stem, dotted),
      fmt::format("{}{}.safetensors.index.json", stem, dotted),  // as some name a variant's
      single,
  };
  // Where both are there, transformers (whose files are called model) loads the single file, and
  // diffusers the shards of the index.
  if (stem == "model") names.insert(names.begin(), single);
  for (const std::string& name : names) {
    if (std::filesystem::exists(directory / name)) return directory / name;
  }
  return variant.empty() ? std::filesystem::path() : first_file(directory, stem);
}

std::unique_ptr<const WeightFiles> WeightFiles::open(const std::filesystem::path& directory,
                                                     std::string_view stem,
                                                     std::string_view variant) {
  auto result = std::make_unique<WeightFiles>();
  result->directory_ = directory;
  const std::filesystem::path first = first_file(directory, stem, variant);
  check(!first.empty(), ErrorCode::kNotFound,
        "{}: neither {}.safetensors nor {}.safetensors.index.json is there{}", directory, stem,
        stem, what_is_there_instead(directory, stem));
  std::map<std::string, std::vector<std::string>> shards;
  if (first.extension() == ".json") {
    shards = read_index(first);
  } else {
    shards[first.filename().string()] = {};
  }
  for (const auto& [shard, expected] : shards) {
    const auto path = directory / shard;
    result->add_file(WeightFile::open(path));
    const size_t file = result->files_.size() - 1;
    for (const std::string& name : expected) {
      const auto found = result->tensors_.find(name);
      check(found != result->tensors_.end() && found->second.file == file, ErrorCode::kNotFound,
            "{}: tensor '{}' is missing, although {} places it there", path, name,
            first.filename());
    }
  }
  result->finish();
  return result;
}

std::unique_ptr<const WeightFiles> WeightFiles::open_file(const std::filesystem::path& file) {
  auto result = std::make_unique<WeightFiles>();
  result->directory_ = file.parent_path();
  result->add_file(WeightFile::open(file));
  result->finish();
  return result;
}

void WeightFiles::add_file(std::unique_ptr<const WeightFile> file) {
  files_.push_back(std::move(file));
  const size_t index = files_.size() - 1;
  for (const auto& [name, tensor] : files_[index]->tensors()) add(name, {tensor, index, {}});
  for (const auto& [name, why] : files_[index]->unreadable()) add(name, {{}, index, why});
}

void WeightFiles::finish() {
  constexpr std::string_view kFormats = "_quantization_metadata";
  for (const auto& file : files_) {
    const auto* safetensors = dynamic_cast<const SafetensorsFile*>(file.get());
    if (safetensors == nullptr) continue;
    const auto found = safetensors->metadata().find(kFormats);
    if (found != safetensors->metadata().end()) mark_other_formats(tensors_, found->second);
  }
  attach_scales(tensors_);
}

void WeightFiles::add(const std::string& name, WeightEntry entry) {
  const size_t file = entry.file;
  const bool added = tensors_.emplace(name, std::move(entry)).second;
  check(added, ErrorCode::kInvalidArgument, "{}: tensor '{}' is in {} too", files_[file]->path(),
        name, file_of(name).filename());
}

const StoredTensor* WeightFiles::find(std::string_view name) const {
  const auto entry = tensors_.find(name);
  const bool readable = entry != tensors_.end() && entry->second.why_unreadable.empty();
  return readable ? &entry->second.tensor : nullptr;
}

std::string_view WeightFiles::why_unreadable(std::string_view name) const {
  const auto entry = tensors_.find(name);
  return entry == tensors_.end() ? std::string_view() : entry->second.why_unreadable;
}

std::filesystem::path WeightFiles::file_of(std::string_view name) const {
  const auto entry = tensors_.find(name);
  if (entry != tensors_.end()) return files_[entry->second.file]->path();
  return files_.size() == 1 ? files_[0]->path() : directory_;
}

std::vector<std::string> WeightFiles::names() const {
  std::vector<std::string> names;
  names.reserve(tensors_.size());
  for (const auto& [name, entry] : tensors_) {
    if (entry.why_unreadable.empty()) names.push_back(name);
  }
  return names;
}

std::vector<std::string> WeightFiles::unreadable_names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : tensors_) {
    if (!entry.why_unreadable.empty()) names.push_back(name);
  }
  return names;
}

}  // namespace flux
