#include "convert/repository_layout.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "convert/model_directory.h"
#include "pipeline/model_names.h"
#include "pipeline/part_search.h"
#include "pipeline/source_check.h"
#include "support/error.h"
#include "weights/weight_files.h"

namespace flux {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPipeline = "bls";

/// What stands for the checkpoint of these models on the command line.
fs::path source_of(const fs::path& repository, const std::string& prefix) {
  if (prefixes_of(repository).size() == 1) return repository;
  return repository / (prefix.empty() ? kPipeline : prefix.substr(0, prefix.size() - 1));
}

/// A model of a repository, or what is in it, is no source, though "bls" has a model_index.json.
void refuse_part_of_repository(const fs::path& path) {
  constexpr int kLevels = 4;  // REPOSITORY/MODEL/VERSION/COMPONENT/FILE
  fs::path part = path;
  std::error_code error;
  for (int i = 0; i < kLevels && fs::exists(path, error); ++i, part = part.parent_path()) {
    const auto model = parse_model_name(part.filename().string());
    if (!model || prefixes_of(part.parent_path()).empty()) continue;
    fail(ErrorCode::kNotFound, "{}: is a part of a model repository: give {}", path,
         source_of(part.parent_path(), model->prefix).string());
  }
}

void refuse_directory_around_repository(const fs::path& path) {
  if (fs::exists(fs::symlink_status(path / "model_index.json"))) return;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(path, error)) {
    const std::vector<std::string> prefixes = prefixes_of(entry.path());
    check(prefixes.empty(), ErrorCode::kNotFound, "{}: holds a model repository: give {}", path,
          prefixes.empty() ? "" : source_of(entry.path(), prefixes[0]).string());
  }
}

}  // namespace

RepositoryLayout::RepositoryLayout(fs::path root, std::string prefix)
    : root_(std::move(root)), prefix_(std::move(prefix)) {
  const auto check_model = [&](std::string_view kind) {
    const fs::path directory = root_ / fmt::format("{}{}", prefix_, kind);
    std::error_code error;  // what is missing is named by who opens it
    if (fs::is_directory(directory, error)) check_model_directory(directory);
  };
  for (const std::string_view kind : kModelNames) check_model(kind);
  for (const std::string_view kind : kOptionalModelNames) check_model(kind);
}

fs::path RepositoryLayout::model(std::string_view kind) const {
  return version_directory(root_ / fmt::format("{}{}", prefix_, kind));
}

fs::path RepositoryLayout::place(Component component) const {
  const std::optional<StageKind> stage = info_of(component).stage;
  return model(stage ? name_of(*stage) : kPipeline) / name_of(component);
}

fs::path RepositoryLayout::model_index() const { return model(kPipeline) / "model_index.json"; }

fs::path RepositoryLayout::config(Component component) const {
  return model(kPipeline) / name_of(component) / info_of(component).config_file;
}

std::vector<std::string> prefixes_of(const fs::path& directory) {
  std::vector<std::string> prefixes;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, error)) {
    const auto name = parse_model_name(entry.path().filename().string());
    if (!name || name->kind != kPipeline) continue;
    if (!fs::exists(version_directory(entry.path()) / "model_index.json", error)) continue;
    prefixes.push_back(name->prefix);
  }
  std::sort(prefixes.begin(), prefixes.end());
  return prefixes;
}

namespace {

std::shared_ptr<const Checkpoint> open_known_source(const fs::path& source,
                                                    const PartOptions& parts) {
  check(parts.variant.empty() || WeightFiles::is_variant(parts.variant),
        ErrorCode::kInvalidArgument, "variant '{}': must be letters, digits and _, such as fp16",
        parts.variant);
  const fs::path absolute = fs::absolute(source).lexically_normal();
  const fs::path path = absolute.has_filename() ? absolute : absolute.parent_path();
  const auto open = [&](const fs::path& root, const std::string& prefix) {
    return Checkpoint::open(
        root, with_parts(std::make_unique<RepositoryLayout>(root, prefix), parts), parts.variant);
  };
  const std::vector<std::string> prefixes = prefixes_of(path);
  if (prefixes.size() == 1) return open(path, prefixes[0]);
  std::vector<std::string> names;
  for (const std::string& prefix : prefixes) {
    names.push_back(source_of(path, prefix).string());
  }
  check(names.empty(), ErrorCode::kInvalidArgument,
        "{}: holds the models of several checkpoints: give one of them: {}", source,
        fmt::join(names, ", "));
  // REPOSITORY/NAME is no directory, but the beginning of five names; REPOSITORY/bls stands for the
  // checkpoint without a name.
  const std::vector<std::string> beside = prefixes_of(path.parent_path());
  const std::string name = path.filename().string();
  for (const std::string& prefix : beside) {
    const bool named = prefix == name + "_" && !fs::exists(path);
    if (named || (prefix.empty() && name == kPipeline)) {
      return open(path.parent_path(), prefix);
    }
  }
  refuse_part_of_repository(path);
  std::error_code error;  // what cannot be read is reported by who opens it
  const bool there = fs::exists(fs::symlink_status(path, error));
  if (there && is_weight_file(path) && !fs::is_directory(path, error)) {
    return Checkpoint::open(path, find_parts(path, parts), parts.variant);
  }
  refuse_directory_around_repository(path);
  return Checkpoint::open(
      source, with_parts(std::make_unique<DiffusersLayout>(fs::absolute(source)), parts),
      parts.variant);
}

}  // namespace

std::shared_ptr<const Checkpoint> open_source(const fs::path& source, const PartOptions& parts) {
  try {
    return open_known_source(source, parts);
  } catch (const fs::filesystem_error& error) {  // a cycle of links, a directory of another user
    fail(ErrorCode::kInvalidArgument, "{}: cannot be opened: {}", error.path1(),
         error.code().message());
  }
}

}  // namespace flux
