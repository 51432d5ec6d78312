#include "cli/serving_files.h"

#include <unistd.h>

#include <cstdlib>

#include "cli/run_program.h"
#include "support/error.h"

namespace flux::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kBackendFile = "flux/libtriton_flux.so";
constexpr const char* kServerName = "tritonserver";
constexpr const char* kVenvName = ".venv-serving";

fs::path directory_of_program() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  return error ? fs::current_path() : program.parent_path();
}

/// Finds the server in the package nvidia-pytriton of a Python. The package is not imported, which
/// would take seconds.
std::optional<fs::path> in_python(const fs::path& python) {
  if (!is_program(python)) return std::nullopt;
  const auto found = run_program(python, {"-c",
                                          "import importlib.util\n"
                                          "spec = importlib.util.find_spec('pytriton')\n"
                                          "print(next(iter(spec.submodule_search_locations)))"});
  if (!found || found->exit_code != 0) return std::nullopt;
  const std::string& printed = found->output;
  const fs::path server =
      fs::path(printed.substr(0, printed.find('\n'))) / kServerName / "bin" / kServerName;
  return is_program(server) ? std::optional(server) : std::nullopt;
}

std::optional<fs::path> search_server() {
  if (auto file = on_path(kServerName)) return file;
  const fs::path container = "/opt/tritonserver/bin/tritonserver";
  if (is_program(container)) return container;
  if (const char* venv = std::getenv("FLUX_TRITON_VENV"); venv != nullptr && *venv != '\0') {
    auto file = in_python(fs::path(venv) / "bin" / "python3");
    check(file.has_value(), ErrorCode::kNotFound,
          "$FLUX_TRITON_VENV {}: no Python environment with nvidia-pytriton in it", venv);
    return file;
  }
  // build/cli/flux-triton: the project's root is a few directories up.
  fs::path root = directory_of_program();
  for (int i = 0; i < 4 && root.has_relative_path(); ++i, root = root.parent_path()) {
    if (auto file = in_python(root / kVenvName / "bin" / "python3")) return file;
  }
  const auto python = on_path("python3");
  return python ? in_python(*python) : std::nullopt;
}

/// The wheel has the libraries of the server beside its packages:
/// <packages>/pytriton/tritonserver/bin/tritonserver and <packages>/nvidia_pytriton.libs.
fs::path libraries_of(const fs::path& program) {
  std::error_code error;
  fs::path packages = fs::canonical(program, error);
  for (int i = 0; i < 4; ++i) packages = packages.parent_path();
  const fs::path libraries = packages / "nvidia_pytriton.libs";
  return !error && fs::is_directory(libraries, error) ? libraries : fs::path();
}

}  // namespace

bool is_program(const fs::path& file) {
  std::error_code error;
  return fs::is_regular_file(file, error) && ::access(file.c_str(), X_OK) == 0;
}

std::optional<fs::path> on_path(const char* name) {
  const char* path = std::getenv("PATH");
  std::string_view rest = path == nullptr ? "" : path;
  while (!rest.empty()) {
    const size_t colon = std::min(rest.find(':'), rest.size());
    const fs::path file = fs::path(rest.substr(0, colon)) / name;
    if (file.is_absolute() && is_program(file)) return file;
    rest.remove_prefix(std::min(colon + 1, rest.size()));
  }
  return std::nullopt;
}

ServerProgram find_server(const std::string& given) {
  const char* variable = std::getenv("TRITONSERVER");
  const bool named = !given.empty() || (variable != nullptr && *variable != '\0');
  if (named) {
    const fs::path program = given.empty() ? variable : given;
    check(is_program(program), ErrorCode::kNotFound, "{} {}: is no program that can be run",
          given.empty() ? "$TRITONSERVER" : "--tritonserver", program.string());
    return {fs::absolute(program), libraries_of(program)};
  }
  const auto found = search_server();
  check(found.has_value(), ErrorCode::kNotFound,
        "tritonserver is neither on PATH nor in /opt/tritonserver nor in a Python environment; "
        "install it (pip install nvidia-pytriton==0.7.0), or name it with --tritonserver or "
        "$TRITONSERVER");
  return {*found, libraries_of(*found)};
}

std::string library_path(const std::vector<fs::path>& directories) {
  std::string path;
  for (const fs::path& directory : directories) {
    if (!directory.empty())
      path += fmt::format("{}{}", path.empty() ? "" : ":", directory.string());
  }
  const char* before = std::getenv("LD_LIBRARY_PATH");
  if (before != nullptr && *before != '\0')
    path += fmt::format("{}{}", path.empty() ? "" : ":", before);
  return path;
}

fs::path find_backend_directory(const std::string& given) {
  if (!given.empty()) {
    check(fs::exists(fs::path(given) / kBackendFile), ErrorCode::kNotFound,
          "--backend-directory {}: there is no {} in it", given, kBackendFile);
    return fs::canonical(given);
  }
  const fs::path here = directory_of_program();
  for (const fs::path& place :
       {here / FLUX_PRIVATE_FROM_PROGRAM / "backends", here, here / "backends",
        here.parent_path() / "backends", here.parent_path() / "lib",
        here.parent_path() / "lib" / "backends", here / "build" / "backends",
        fs::path("/opt/tritonserver/backends")}) {
    if (fs::exists(place / kBackendFile)) return fs::canonical(place);
  }
  fail(ErrorCode::kNotFound,
       "{} is not near {}; build the backend (make build), or give --backend-directory",
       kBackendFile, here.string());
}

std::optional<fs::path> find_front() {
  constexpr const char* kFrontName = "flux-triton-front";
  const fs::path here = directory_of_program();
  for (const fs::path& place :
       {here / FLUX_PRIVATE_FROM_PROGRAM, here, here.parent_path() / "front"}) {
    if (is_program(place / kFrontName)) return fs::canonical(place / kFrontName);
  }
  return std::nullopt;
}

}  // namespace flux::cli
