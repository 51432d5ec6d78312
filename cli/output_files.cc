#include "cli/output_files.h"

#include <fmt/format.h>

#include <map>

#include "cli/common.h"
#include "flux/flux.h"

namespace flux::cli {
namespace {

namespace fs = std::filesystem;

void check_kind(const OutputFile& output) {
  std::error_code error;
  const fs::file_status status = fs::status(output.file, error);
  if (fs::is_directory(status)) {
    throw UsageError(fmt::format("{} {}: is a directory; name a file in it", output.option,
                                 output.file.string()));
  }
  if (fs::exists(status) && !fs::is_regular_file(status) && !is_device(output.file)) {
    throw UsageError(
        fmt::format("{} {}: is no regular file, and no device such as /dev/null; name another file",
                    output.option, output.file.string()));
  }
}

void check_directory(const OutputFile& output) {
  const fs::path& file = output.file;
  const fs::path directory = file.has_parent_path() ? file.parent_path() : fs::path(".");
  if (fs::is_directory(directory)) return;
  throw Error(ErrorCode::kNotFound,
              fmt::format("{} {}: the directory {} does not exist; make it first", output.option,
                          file.string(), directory.string()));
}

}  // namespace

void check_output_files(const std::vector<OutputFile>& outputs) {
  std::map<fs::path, const OutputFile*> written;
  for (const OutputFile& output : outputs) {
    check_kind(output);
    check_directory(output);
    if (is_device(output.file)) continue;
    const fs::path file = fs::weakly_canonical(fs::absolute(follow_links(output.file)));
    const auto [same, added] = written.emplace(file, &output);
    if (added) continue;
    throw UsageError(fmt::format("{} {} and {} {}: are the same file; name two",
                                 same->second->option, same->second->file.string(), output.option,
                                 output.file.string()));
  }
}

void check_image_name(const OutputFile& output) {
  if (is_device(output.file) || format_of_file(output.file)) return;
  throw UsageError(fmt::format("{} {}: the name must end in .png, .jpg, .jpeg or .webp",
                               output.option, output.file.string()));
}

void check_safetensors_name(const OutputFile& output) {
  if (output.file.extension() == ".safetensors" || is_device(output.file)) return;
  throw UsageError(
      fmt::format("{} {}: the name must end in .safetensors", output.option, output.file.string()));
}

}  // namespace flux::cli
