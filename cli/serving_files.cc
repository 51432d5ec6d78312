#include "cli/serving_files.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <optional>
#include <vector>

#include "support/error.h"

namespace flux::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kBackendFile = "flux/libtriton_flux.so";
constexpr const char* kServerName = "tritonserver";
constexpr const char* kVenvName = ".venv-serving";

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

fs::path directory_of_program() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  return error ? fs::current_path() : program.parent_path();
}

/// What a program prints, or nothing when it cannot be run or fails.
std::optional<std::string> output_of(const fs::path& program,
                                     const std::vector<std::string>& arguments) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return std::nullopt;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  std::vector<char*> words = {const_cast<char*>(program.c_str())};
  for (const std::string& word : arguments) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  pid_t child = 0;
  const int failure =
      ::posix_spawn(&child, program.c_str(), &actions, nullptr, words.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  std::string output;
  char piece[4096];
  while (failure == 0) {
    const ssize_t got = ::read(ends[0], piece, sizeof piece);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    output.append(piece, static_cast<size_t>(got));
  }
  ::close(ends[0]);
  if (failure != 0) return std::nullopt;
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) return std::nullopt;
  return output;
}

/// The server in the package nvidia-pytriton that a Python knows. The package is not imported: that
/// takes seconds.
std::optional<fs::path> in_python(const fs::path& python) {
  if (!is_program(python)) return std::nullopt;
  const auto found = output_of(python, {"-c",
                                        "import importlib.util\n"
                                        "spec = importlib.util.find_spec('pytriton')\n"
                                        "print(next(iter(spec.submodule_search_locations)))"});
  if (!found) return std::nullopt;
  const fs::path server =
      fs::path(found->substr(0, found->find('\n'))) / kServerName / "bin" / kServerName;
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

/// The wheel keeps the libraries of the server beside its packages:
/// <packages>/pytriton/tritonserver/bin/tritonserver and <packages>/nvidia_pytriton.libs.
fs::path libraries_of(const fs::path& program) {
  std::error_code error;
  fs::path packages = fs::canonical(program, error);
  for (int i = 0; i < 4; ++i) packages = packages.parent_path();
  const fs::path libraries = packages / "nvidia_pytriton.libs";
  return !error && fs::is_directory(libraries, error) ? libraries : fs::path();
}

}  // namespace

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

fs::path find_backend_directory(const std::string& given) {
  if (!given.empty()) {
    check(fs::exists(fs::path(given) / kBackendFile), ErrorCode::kNotFound,
          "--backend-directory {}: there is no {} in it", given, kBackendFile);
    return fs::canonical(given);
  }
  const fs::path here = directory_of_program();
  for (const fs::path& place :
       {here, here / "backends", here.parent_path() / "backends", here.parent_path() / "lib",
        here.parent_path() / "lib" / "backends", here / "build" / "backends",
        fs::path("/opt/tritonserver/backends")}) {
    if (fs::exists(place / kBackendFile)) return fs::canonical(place);
  }
  fail(ErrorCode::kNotFound,
       "{} is not near {}; build the backend (make build), or give --backend-directory",
       kBackendFile, here.string());
}

}  // namespace flux::cli
