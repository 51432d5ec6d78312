#include "weights/weight_files.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "support/error.h"
#include "support/integer.h"
#include "support/json_file.h"

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

}  // namespace

std::unique_ptr<const WeightFiles> WeightFiles::open(const std::filesystem::path& directory,
                                                     std::string_view stem) {
  auto result = std::make_unique<WeightFiles>();
  result->directory_ = directory;
  const auto single = directory / fmt::format("{}.safetensors", stem);
  const auto index = directory / fmt::format("{}.safetensors.index.json", stem);
  // Where both are there, transformers (whose files are called model) loads the single file, and
  // diffusers the shards of the index.
  const bool single_first = stem == "model" && std::filesystem::exists(single);
  std::map<std::string, std::vector<std::string>> shards;
  if (!single_first && std::filesystem::exists(index)) {
    shards = read_index(index);
  } else {
    check(std::filesystem::exists(single), ErrorCode::kNotFound,
          "{}: neither {}.safetensors nor {}.safetensors.index.json is there; the checkpoint must "
          "hold its weights as safetensors",
          directory, stem, stem);
    shards[single.filename().string()] = {};
  }
  for (const auto& [shard, expected] : shards) {
    const auto path = directory / shard;
    result->files_.push_back(SafetensorsFile::open(path));
    const size_t file = result->files_.size() - 1;
    for (const auto& [name, tensor] : result->files_[file]->tensors()) {
      const bool added = result->tensors_.emplace(name, Entry{tensor, file}).second;
      check(added, ErrorCode::kInvalidArgument, "{}: tensor '{}' is in {} too", path, name,
            result->file_of(name).filename());
    }
    for (const std::string& name : expected) {
      check(result->files_[file]->tensors().contains(name), ErrorCode::kNotFound,
            "{}: tensor '{}' is missing, although {} places it there", path, name,
            index.filename());
    }
  }
  return result;
}

const ConstTensor* WeightFiles::find(std::string_view name) const {
  const auto entry = tensors_.find(name);
  return entry == tensors_.end() ? nullptr : &entry->second.tensor;
}

std::filesystem::path WeightFiles::file_of(std::string_view name) const {
  const auto entry = tensors_.find(name);
  if (entry != tensors_.end()) return files_[entry->second.file]->path();
  return files_.size() == 1 ? files_[0]->path() : directory_;
}

std::vector<std::string> WeightFiles::names() const {
  std::vector<std::string> names;
  names.reserve(tensors_.size());
  for (const auto& [name, entry] : tensors_) names.push_back(name);
  return names;
}

void WeightFiles::drop_pages(const ConstTensor& tensor) const {
  const bool mapped = std::any_of(files_.begin(), files_.end(),
                                  [&](const auto& file) { return file->maps(tensor); });
  if (!mapped) return;
  static const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(tensor.raw());
  const auto first = round_up(begin, page);
  const auto last = (begin + static_cast<uintptr_t>(tensor.bytes())) / page * page;
  // Only whole pages: the rest belongs to neighbours. Private and never written, so that the pages
  // come back from the file when they are read again; a failure only costs memory.
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

}  // namespace flux
