#include "cli/python_models.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "support/file.h"

namespace flux::cli {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxTextBytes = size_t{1} << 20;
/// What model.py does with its list: by this the files of convert are known, also changed ones.
constexpr std::string_view kUseOfPackages =
    "\nMISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]\n";

/// A config.pbtxt without its comments and blanks.
std::string condensed(std::string_view config) {
  std::string text;
  bool comment = false;
  for (const char c : config) {
    comment = c == '#' || (comment && c != '\n');
    if (!comment && c != ' ' && c != '\t' && c != '\r') text += c;
  }
  return text;
}

bool has(std::string_view text, std::string_view part) { return text.find(part) != text.npos; }

/// Returns the model.py of the highest version, which Triton serves unless it is told otherwise.
std::optional<fs::path> find_program(const fs::path& model) {
  std::optional<fs::path> program;
  int64_t highest = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(model)) {
    const std::string name = entry.path().filename().string();
    int64_t version = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), version);
    if (error != std::errc() || end != name.data() + name.size() || name.starts_with('0')) continue;
    if (version <= highest) continue;
    if (!fs::is_regular_file(entry.path() / "model.py")) continue;
    highest = version;
    program = entry.path() / "model.py";
  }
  return program;
}

std::vector<std::string> packages_of(const fs::path& model) {
  std::vector<std::string> packages = {"numpy"};
  const auto program = find_program(model);
  if (!program || fs::is_empty(*program) || fs::file_size(*program) > kMaxTextBytes)
    return packages;
  const std::string text = read_file(*program, kMaxTextBytes);
  constexpr std::string_view kList = "\nPACKAGES = (";
  const size_t begin = text.find(kList);
  if (begin == text.npos || !has(text, kUseOfPackages)) return packages;
  const std::string list = text.substr(begin, text.find(')', begin) - begin);
  for (size_t at = list.find('"'); at != list.npos; at = list.find('"', at + 1)) {
    const size_t end = std::min(list.find('"', at + 1), list.size());
    const std::string name = list.substr(at + 1, end - at - 1);
    if (std::find(packages.begin(), packages.end(), name) == packages.end()) {
      packages.push_back(name);
    }
    at = end;
  }
  return packages;
}

}  // namespace

std::vector<PythonModel> models_in_python(const fs::path& repository) {
  std::vector<PythonModel> models;
  for (const fs::directory_entry& entry : fs::directory_iterator(repository)) {
    const fs::path config = entry.path() / "config.pbtxt";
    if (!fs::is_regular_file(config) || fs::is_empty(config)) continue;
    const std::string text = condensed(read_file(config, kMaxTextBytes));
    if (!has(text, "backend:\"python\"") && !has(text, "backend:'python'")) continue;
    const bool packed = has(text, "\"EXECUTION_ENV_PATH\"");
    models.push_back({entry.path().filename().string(),
                      packed ? std::vector<std::string>() : packages_of(entry.path())});
  }
  return models;
}

}  // namespace flux::cli
