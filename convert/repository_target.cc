#include "convert/repository_target.h"

#include <algorithm>

#include "convert/repository_layout.h"
#include "pipeline/model_names.h"
#include "support/error.h"
#include "support/file.h"

namespace flux {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxConfigBytes = size_t{1} << 20;

/// Whether `path` is `directory` or lies in it; both canonical.
bool is_within(const fs::path& path, const fs::path& directory) {
  return std::mismatch(directory.begin(), directory.end(), path.begin(), path.end()).first ==
         directory.end();
}

fs::path canonical_target(const fs::path& name) {
  fs::path absolute = fs::absolute(name).lexically_normal();
  if (!absolute.has_filename()) absolute = absolute.parent_path();
  check(absolute.has_filename(), ErrorCode::kInvalidArgument,
        "{}: a repository cannot be made there; name a new directory", name.string());
  std::error_code error;
  if (fs::is_symlink(absolute)) {
    fs::path target = fs::canonical(absolute, error);
    check(!error, ErrorCode::kInvalidArgument, "{}: is a symbolic link that leads nowhere: {}",
          absolute.string(), error.message());
    return target;
  }
  const fs::path parent = fs::canonical(absolute.parent_path(), error);
  check(!error && fs::is_directory(parent), ErrorCode::kNotFound,
        "{}: the directory {} does not exist; make it first", name.string(),
        absolute.parent_path().string());
  return parent / absolute.filename();
}

/// Replacing a repository must not take away what it is to be made from.
void check_apart(const Checkpoint& checkpoint, const fs::path& target) {
  const fs::path source = fs::canonical(checkpoint.source());
  check(!is_within(target, source), ErrorCode::kInvalidArgument,
        "{}: lies in the checkpoint {}; choose a place outside of it", target.string(),
        source.string());
  const auto check_source = [&](const fs::path& file) {
    check(!is_within(fs::canonical(file), target), ErrorCode::kInvalidArgument,
          "{}: the checkpoint's {} lies in it; choose another place", target.string(),
          file.string());
  };
  check_source(source);
  for (const Component component : checkpoint.family().components) {
    const fs::path directory = checkpoint.layout().place(component);
    if (directory.empty()) continue;
    check_source(directory);
    if (!fs::is_directory(directory)) continue;
    for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
      if (entry.exists()) check_source(entry.path());
    }
  }
}

bool is_our_model(const fs::path& directory) {
  const fs::path config = directory / "config.pbtxt";
  if (!fs::is_regular_file(config) || fs::is_empty(config)) return false;
  const std::string text = read_file(config, kMaxConfigBytes);
  return text.find("backend: \"flux\"") != text.npos ||
         text.find("backend: \"python\"") != text.npos;
}

/// The models of other checkpoints in `target`. Throws unless it may be made there.
std::vector<std::string> check_replaceable(const fs::path& target, const std::string& prefix,
                                           bool replace) {
  std::vector<std::string> others;
  if (!fs::exists(fs::symlink_status(target))) return others;
  check(fs::is_directory(target), ErrorCode::kInvalidArgument,
        "{}: is there and no directory; choose another name", target.string());
  const bool empty = fs::is_empty(target);
  check(empty || !prefixes_of(target).empty(), ErrorCode::kInvalidArgument,
        "{}: is a directory, but no model repository made from a checkpoint; it is left alone: "
        "choose another name",
        target.string());
  bool same_names = empty;
  for (const fs::directory_entry& entry : fs::directory_iterator(target)) {
    const std::string name = entry.path().filename().string();
    const auto model = parse_model_name(name);
    check(model && is_our_model(entry.path()), ErrorCode::kInvalidArgument,
          "{}: holds '{}' besides models made from checkpoints; move it away, or choose another "
          "name",
          target.string(), name);
    if (model->prefix == prefix) {
      same_names = true;
    } else {
      others.push_back(name);
    }
  }
  check(replace || !same_names, ErrorCode::kInvalidArgument,
        "{}: exists already{}; choose another name, or --force to replace {}", target.string(),
        others.empty() ? "" : fmt::format(", with a model '{}bls'", prefix),
        others.empty() ? "it" : "its models");
  return others;
}

}  // namespace

RepositoryTarget resolve_repository(const Checkpoint& checkpoint, const fs::path& name,
                                    const std::string& prefix, bool replace) {
  RepositoryTarget target{canonical_target(name), {}};
  check_apart(checkpoint, target.path);
  target.others = check_replaceable(target.path, prefix, replace);
  return target;
}

}  // namespace flux
