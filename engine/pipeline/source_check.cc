#include "pipeline/source_check.h"

#include <algorithm>
#include <string>
#include <vector>

#include "support/error.h"
#include "support/file.h"

namespace flux {
namespace {

namespace fs = std::filesystem;

constexpr const char* kWanted =
    "give the directory of a diffusers FLUX.1 checkpoint or of a model repository made from one, "
    "or "
    "a transformer's .safetensors or .gguf file";

/// The entries of a directory that fit, in alphabetical order.
template <typename Fits>
std::vector<std::string> entries(const fs::path& directory, Fits fits) {
  std::vector<std::string> names;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, error)) {
    if (fits(entry)) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

/// The first of them; empty when none fits.
template <typename Fits>
std::string first_entry(const fs::path& directory, Fits fits) {
  const std::vector<std::string> names = entries(directory, fits);
  return names.empty() ? "" : names.front();
}

/// Words about a directory without model_index.json.
std::string what_directory_is(const fs::path& source) {
  const fs::path parent = fs::absolute(source).lexically_normal() / "..";
  const fs::path above = parent.lexically_normal();
  if (fs::exists(above / "model_index.json")) {
    return fmt::format("it is a component of the checkpoint {}: give that directory",
                       (above.has_filename() ? above : above.parent_path()).string());
  }
  const std::vector<std::string> inside = entries(source, [](const auto& entry) {
    std::error_code error;  // of a directory that must not be read
    return fs::exists(entry.path() / "model_index.json", error);
  });
  if (inside.size() == 1) {
    return fmt::format("it holds a checkpoint: give {}", (source / inside[0]).string());
  }
  if (!inside.empty()) {
    return fmt::format("it holds {} checkpoints: give one of them, such as {}", inside.size(),
                       (source / inside[0]).string());
  }
  const fs::path snapshots = source / "snapshots";
  const std::string snapshot =
      first_entry(snapshots, [](const auto& entry) { return entry.is_directory(); });
  if (!snapshot.empty()) {
    return fmt::format("it is a cache of downloads: give {}", (snapshots / snapshot).string());
  }
  if (fs::exists(source / "blobs") || fs::exists(source / "refs")) {
    return "it is a cache of downloads that holds no snapshot: download the checkpoint again";
  }
  const std::string single = first_entry(
      source, [](const auto& entry) { return is_weight_file(entry.path().filename()); });
  if (!single.empty()) {
    return fmt::format("it holds files of weights: give the transformer's, such as {}",
                       (source / single).string());
  }
  return kWanted;
}

}  // namespace

bool is_weight_file(const fs::path& file) {
  static constexpr std::string_view kEndings[] = {".safetensors", ".sft", ".gguf", ".ckpt",
                                                  ".pt",          ".pth", ".bin"};
  const std::string ending = ending_of(file);
  return std::find(std::begin(kEndings), std::end(kEndings), ending) != std::end(kEndings);
}

void check_source(const fs::path& source, const fs::path& model_index) {
  std::error_code error;
  const fs::file_status status = fs::status(source, error);
  check(fs::status_known(status), ErrorCode::kNotFound, "{}: cannot be opened: {}; {}", source,
        error.message(), kWanted);
  check(fs::exists(status), ErrorCode::kNotFound, "{}: no such file or directory; {}", source,
        kWanted);
  check(fs::is_directory(source), ErrorCode::kNotFound,
        "{}: is a file, but none of weights by its name; {}", source, kWanted);
  // A link that leads nowhere is reported by who opens it.
  check(fs::exists(fs::symlink_status(model_index)), ErrorCode::kNotFound,
        "{}: there is no model_index.json; {}", source, what_directory_is(source));
}

}  // namespace flux
