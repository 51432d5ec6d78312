#include "convert/model_directory.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>

#include "convert/repository_layout.h"
#include "convert/text_format.h"
#include "pipeline/model_names.h"
#include "support/error.h"
#include "support/file.h"
#include "support/utf8.h"

namespace flux {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMakeAgain = "make the repository again with flux-triton convert";

/// A server may be told to take other versions than the highest; the commands cannot follow that.
void check_version_policy(const fs::path& config, const std::string& text) {
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    const std::string_view code = line.substr(0, line.find('#'));
    check(code.find("version_policy") == code.npos, ErrorCode::kInvalidArgument,
          "{}: version_policy is set, which this program does not follow: it takes the highest "
          "version; leave only the version that is meant, and take the setting away",
          config);
    begin = end + 1;
  }
}

/// Whether a server reads a number from the beginning of a directory's name (by std::stoll) that
/// this program does not: "2x", "+2", or a number that ends the server because it is too large.
bool is_misread_version(std::string_view name) {
  if (version_of(name) > 0 || (name.size() > 1 && name.front() == '0')) return false;
  name.remove_prefix(std::min(name.size(), name.find_first_not_of(" \t\n\v\f\r")));
  if (name.starts_with('+')) name.remove_prefix(1);
  int64_t number = 0;
  const auto parsed = std::from_chars(name.data(), name.data() + name.size(), number);
  return parsed.ec == std::errc::result_out_of_range || (parsed.ec == std::errc() && number > 0);
}

/// Of a model's versions; 0 where there is none.
int64_t highest_version(const fs::path& model) {
  int64_t highest = 0;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(model, error)) {
    if (entry.is_directory(error)) {
      highest = std::max(highest, version_of(entry.path().filename().string()));
    }
  }
  return highest;
}

void check_version_names(const fs::path& model) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(model, error)) {
    const bool misread =
        entry.is_directory(error) && is_misread_version(entry.path().filename().string());
    check(!misread, ErrorCode::kInvalidArgument,
          "{}: is no version of the model, but a server takes it for one: the name of a version is "
          "a number from 1 to {}; rename the directory, or move it away",
          entry.path(), std::numeric_limits<int64_t>::max());
  }
}

void check_versions(const fs::path& model) {
  check_version_names(model);
  check(highest_version(model) > 0, ErrorCode::kNotFound,
        "{}: has no version: there must be a directory '1' in it; {}", model, kMakeAgain);
}

}  // namespace

int64_t version_of(std::string_view name) {
  int64_t version = 0;
  const auto parsed = std::from_chars(name.data(), name.data() + name.size(), version);
  const bool plain = parsed.ec == std::errc() && parsed.ptr == name.data() + name.size();
  return plain && !name.starts_with('0') && version > 0 ? version : 0;
}

fs::path version_directory(const fs::path& model) {
  return model / std::to_string(std::max<int64_t>(highest_version(model), 1));
}

std::string read_model_config(const fs::path& model) {
  constexpr size_t kMaxBytes = size_t{1} << 20;
  const fs::path file = model / "config.pbtxt";
  std::error_code error;
  const fs::file_status status = fs::status(file, error);
  check(fs::exists(status), ErrorCode::kNotFound, "{}: is missing; {}", file, kMakeAgain);
  check(fs::is_regular_file(status), ErrorCode::kInvalidArgument, "{}: is no file; {}", file,
        kMakeAgain);
  check(fs::file_size(file, error) > 0, ErrorCode::kInvalidArgument, "{}: is empty; {}", file,
        kMakeAgain);
  std::string text = read_file(file, kMaxBytes);
  const std::optional<size_t> invalid = find_invalid_utf8(text);
  check(!invalid, ErrorCode::kInvalidArgument, "{}: is no text in UTF-8: byte {} is 0x{:02x}; {}",
        file, invalid.value_or(0), invalid ? static_cast<unsigned char>(text[*invalid]) : 0,
        kMakeAgain);
  const std::optional<std::string> error_in_text = find_text_format_error(text);
  check(!error_in_text, ErrorCode::kInvalidArgument, "{}: {}; change it, or {}", file,
        error_in_text.value_or(""), kMakeAgain);
  return text;
}

void check_model_directory(const fs::path& model) {
  check_version_policy(model / "config.pbtxt", read_model_config(model));
  check_versions(model);
}

void check_all_models(const fs::path& repository) {
  for (const std::string& prefix : prefixes_of(repository)) {
    for (const std::string_view kind : kModelNames) {
      const fs::path model = repository / fmt::format("{}{}", prefix, kind);
      check(fs::is_directory(model), ErrorCode::kNotFound,
            "{}: model '{}' is missing, and '{}bls' cannot answer without it; {}", repository,
            model.filename(), prefix, kMakeAgain);
      check_model_directory(model);
    }
    for (const std::string_view kind : kOptionalModelNames) {
      const fs::path model = repository / fmt::format("{}{}", prefix, kind);
      if (fs::is_directory(model)) check_model_directory(model);
    }
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(repository)) {
    std::error_code error;
    if (!entry.is_directory(error)) continue;
    check(fs::exists(entry.path() / "config.pbtxt", error) || highest_version(entry.path()) > 0,
          ErrorCode::kInvalidArgument,
          "{}: is no model (it has neither a config.pbtxt nor a version), but a server takes every "
          "directory of a repository for one: remove it, or move it away",
          entry.path());
    check_version_names(entry.path());
  }
}

}  // namespace flux
