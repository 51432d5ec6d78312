#include "triton/lora_directory.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <string_view>

#include "pipeline/model_names.h"
#include "pipeline/request.h"
#include "support/json_file.h"
#include "support/trimmed.h"
#include "support/utf8.h"

namespace flux::triton {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kEnding = ".safetensors";
constexpr size_t kMaxNameBytes = 255;  // of a file
constexpr size_t kMostNamed = 20;      // in a message
constexpr std::string_view kBlanks = " \t\r\n\v\f";

/// A text of a request in one line.
std::string in_quotes(std::string_view text) { return quoted(nlohmann::json(text)); }

/// Whether a request can name a file, and a line can.
bool can_be_named(std::string_view name) {
  const bool plain =
      std::none_of(name.begin(), name.end(), [](unsigned char c) { return c < ' '; });
  return plain && name.find(',') == name.npos && !find_invalid_utf8(name);
}

void check_name(std::string_view name) {
  check(!name.empty(), ErrorCode::kInvalidArgument,
        "lora has a name that is blank: give NAME or NAME:SCALE, several with commas");
  check(name.size() <= kMaxNameBytes, ErrorCode::kInvalidArgument,
        "lora has a name of {} bytes: at most {} are allowed", name.size(), kMaxNameBytes);
  check(name.find_first_of("/\\") == name.npos, ErrorCode::kInvalidArgument,
        "lora {} is a path: give the name of a file alone, without its ending", in_quotes(name));
}

/// A colon ends the name: what follows the last one is the scale.
AdapterFile parse(std::string_view text) {
  const size_t colon = text.rfind(':');
  const std::string_view name = trimmed(text.substr(0, colon), kBlanks);
  check_name(name);
  AdapterFile adapter{std::string(name), 1.0};
  if (colon == text.npos) return adapter;
  const std::string_view number = trimmed(text.substr(colon + 1), kBlanks);
  const auto [end, error] =
      std::from_chars(number.data(), number.data() + number.size(), adapter.scale);
  check(!number.empty() && error == std::errc() && end == number.data() + number.size(),
        ErrorCode::kInvalidArgument, "lora {} has the scale {}: must be a number, as in NAME:0.8",
        in_quotes(name), in_quotes(number));
  return adapter;
}

}  // namespace

LoraDirectory::LoraDirectory(const ModelSettings& settings)
    // <repository>/<model>/<version>; bls_stream has those of bls.
    : directory_(settings.directory.parent_path().parent_path() /
                 fmt::format("{}{}", settings.kind.prefix, kModelNames[0]) / kLorasDirectory) {}

std::vector<AdapterFile> LoraDirectory::find(const std::string& text) const {
  check_text("lora", text, true);
  std::vector<AdapterFile> adapters;
  if (trimmed(text, kBlanks).empty()) return adapters;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    AdapterFile adapter = parse(std::string_view(text).substr(begin, end - begin));
    adapter.file = file_of(adapter.file).string();
    adapters.push_back(std::move(adapter));
    begin = end + 1;
  }
  return adapters;
}

fs::path LoraDirectory::file_of(const std::string& name) const {
  const fs::path file = directory_ / fmt::format("{}{}", name, kEnding);
  std::error_code error;
  const fs::path place = fs::canonical(file, error);
  check(!error && fs::is_regular_file(place, error), ErrorCode::kInvalidArgument,
        "lora {} is not there: {}", in_quotes(name), names());
  const fs::path directory = fs::canonical(directory_, error);
  check(!error && place.parent_path() == directory, ErrorCode::kInvalidArgument,
        "lora {} is a link that leaves the directory of adapters: put the file itself there",
        in_quotes(name));
  return file;
}

std::string LoraDirectory::names() const {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(directory_, error), end; !error && entry != end;
       entry.increment(error)) {
    std::string name = entry->path().filename().string();
    std::error_code unknown;
    if (!name.ends_with(kEnding) || !entry->is_regular_file(unknown)) continue;
    name.resize(name.size() - kEnding.size());
    if (name.empty() || !can_be_named(name)) continue;
    names.push_back(excerpt(name));
  }
  if (names.empty()) {
    return fmt::format("there are no adapters; put *.safetensors files into {}/{}",
                       directory_.parent_path().filename(), kLorasDirectory);
  }
  std::sort(names.begin(), names.end());
  const size_t count = names.size();
  names.resize(std::min(count, kMostNamed));
  return fmt::format("the adapters are {}{}", fmt::join(names, ", "),
                     count > names.size() ? fmt::format(" and {} more", count - names.size()) : "");
}

Error lora_error(const fs::path& file, const Error& error) {
  std::string said = error.what();
  const std::string directory = (file.parent_path() / "").string();
  for (size_t at = said.find(directory); !directory.empty() && at != said.npos;
       at = said.find(directory, at)) {
    said.erase(at, directory.size());
  }
  const bool gone = error.code() == ErrorCode::kNotFound;
  const std::string name = file.empty() ? "" : " " + in_quotes(file.stem().string());
  return {gone ? ErrorCode::kInvalidArgument : error.code(), fmt::format("lora{}: {}", name, said),
          error.where()};
}

}  // namespace flux::triton
