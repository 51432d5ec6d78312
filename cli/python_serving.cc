#include "cli/python_serving.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>

#include "cli/run_program.h"
#include "support/error.h"
#include "support/file.h"

namespace flux::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPythonBackend = "python/libtriton_python.so";
constexpr const char* kStub = "triton_python_backend_stub";
constexpr size_t kMaxStubBytes = size_t{64} << 20;
/// Exit code of the stub without arguments, after it has printed its usage.
constexpr int kStubUsageExit = 1;

/// This script takes names of packages and prints the members of PythonInfo, one in a line; package
/// directories come last.
constexpr const char* kAsk = R"(import importlib.util, os, sys, sysconfig
print("%d.%d" % sys.version_info[:2])
print(", ".join(name for name in sys.argv[1:] if importlib.util.find_spec(name) is None))
directory = sysconfig.get_config_var("LIBDIR") or ""
library = os.path.join(directory, sysconfig.get_config_var("INSTSONAME") or "none")
print(directory if ".so" in library and os.path.exists(library) else "")
print(sys.base_prefix)
try:
    import numpy
    print(numpy.__version__)
except Exception:
    print("")
for path in sys.path:
    if os.path.basename(path) in ("site-packages", "dist-packages"):
        print(path)
)";

struct PythonInfo {
  fs::path program;
  std::string version;          // "3.11"
  std::string missing;          // of the packages that were asked for
  fs::path libraries;           // directory of its shared library; empty: it has none
  fs::path prefix;              // directory above its standard library
  std::string numpy;            // "1.26.4"; empty: none that can be imported
  std::vector<fs::path> sites;  // directories of its packages
};

fs::path find_python(const std::string& given) {
  if (!given.empty()) {
    check(is_program(given), ErrorCode::kNotFound, "--python {}: is no program that can be run",
          given);
    return fs::absolute(given);
  }
  if (const char* named = std::getenv("FLUX_PYTHON"); named != nullptr && *named != '\0') {
    check(is_program(named), ErrorCode::kNotFound, "$FLUX_PYTHON {}: is no program that can be run",
          named);
    return fs::absolute(named);
  }
  if (const char* venv = std::getenv("VIRTUAL_ENV"); venv != nullptr && *venv != '\0') {
    const fs::path python = fs::path(venv) / "bin" / "python3";
    if (is_program(python)) return fs::absolute(python);
  }
  const auto python = on_path("python3");
  check(python.has_value(), ErrorCode::kNotFound,
        "models run in Python, and there is no python3 on PATH; name one with --python");
  return *python;
}

/// Every package that one of the models needs, once.
std::vector<std::string> packages_of(const std::vector<PythonModel>& models) {
  std::vector<std::string> packages;
  for (const PythonModel& model : models) {
    for (const std::string& name : model.packages) {
      if (std::find(packages.begin(), packages.end(), name) == packages.end()) {
        packages.push_back(name);
      }
    }
  }
  return packages;
}

PythonInfo ask_python(const fs::path& program, const std::vector<std::string>& packages) {
  std::vector<std::string> arguments = {"-c", kAsk};
  arguments.insert(arguments.end(), packages.begin(), packages.end());
  const auto result = run_program(program, arguments);
  std::vector<std::string> lines;
  if (result && result->exit_code == 0) {
    std::string_view rest = result->output;
    while (!rest.empty()) {
      const size_t end = std::min(rest.find('\n'), rest.size());
      lines.emplace_back(rest.substr(0, end));
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
  }
  constexpr size_t kLinesBeforeSites = 5;
  check(lines.size() >= kLinesBeforeSites, ErrorCode::kNotFound,
        "{}: is no Python 3 that can be asked for its packages; name another with --python",
        program.string());
  PythonInfo info{program, lines[0], lines[1], lines[2], lines[3], lines[4], {}};
  info.sites.assign(lines.begin() + kLinesBeforeSites, lines.end());
  return info;
}

/// Whether a stub knows numpy 1 only, as those of Triton up to 24.10 do. The pybind11 in it is then
/// older than 2.12 and imports the module by this name, which numpy 2 moved; its answers are empty.
bool needs_numpy_1(const fs::path& stub) {
  std::error_code error;
  if (const auto bytes = fs::file_size(stub, error); error || bytes > kMaxStubBytes) return false;
  return read_file(stub, kMaxStubBytes).find("numpy.core.multiarray") != std::string::npos;
}

void check_packages(const PythonInfo& python, const std::vector<std::string>& packages,
                    const fs::path& stub) {
  if (packages.empty()) return;
  const bool old = needs_numpy_1(stub);
  if (python.missing == "numpy") {
    fail(ErrorCode::kNotFound,
         "models run in Python, and {} (version {}) has no numpy, which Triton's Python backend "
         "needs; install {} there, or name another Python with --python",
         python.program.string(), python.version, old ? "'numpy<2'" : "numpy");
  }
  check(python.missing.empty(), ErrorCode::kNotFound,
        "models run in Python, and {} (version {}) has no {}; install what is in "
        "convert/python/requirements.txt there, or name another Python with --python",
        python.program.string(), python.version, python.missing);
  int major = 0;
  std::from_chars(python.numpy.data(), python.numpy.data() + python.numpy.size(), major);
  check(!old || major < 2, ErrorCode::kNotFound,
        "models run in Python, and {} (version {}) has numpy {}; this server's Python backend, of "
        "Triton 24.10 or older, needs numpy 1 and would answer nothing but empty tensors: install "
        "'numpy<2' there, name another Python with --python, or use a newer server",
        python.program.string(), python.version, python.numpy);
}

/// Returns the directory of the server's Python backend.
fs::path find_python_backend(const fs::path& backends, const ServerProgram& server) {
  std::error_code error;
  const fs::path own = fs::canonical(server.program, error).parent_path().parent_path();
  for (const fs::path& place : {backends, own / "backends"}) {
    if (fs::exists(place / kPythonBackend)) return fs::canonical(place / "python");
  }
  fail(ErrorCode::kNotFound,
       "models run in Python, and the server's Python backend ({}) is neither in {} nor in {}; "
       "use a server that has it (nvidia-pytriton does)",
       kPythonBackend, backends.string(), (own / "backends").string());
}

/// Returns the stub beside the backend (containers have one, for their Python), or the one for this
/// version (nvidia-pytriton has several).
fs::path find_stub(const fs::path& backend, const PythonInfo& python) {
  const fs::path alone = backend / kStub;
  if (fs::exists(alone)) return alone;
  const fs::path stubs = backend.parent_path().parent_path() / "python_backend_stubs";
  fs::path stub = stubs / python.version / kStub;
  check(fs::exists(stub), ErrorCode::kNotFound,
        "models run in Python, and the server has no {} for Python {} ({}); name another Python "
        "with --python",
        kStub, python.version, python.program.string());
  return stub;
}

/// Checks that the stub runs. The server must not see one that does not: it would assume missing
/// permissions and change them.
void check_stub(const fs::path& stub, const PythonInfo& python, const std::string& libraries) {
  const auto tried = run_program(stub, {}, {{"LD_LIBRARY_PATH", libraries}});
  check(tried && tried->exit_code == kStubUsageExit, ErrorCode::kNotFound,
        "{}: cannot be run; it needs libpython{}.so.1.0, and {} was built without it: install it "
        "(Debian, Ubuntu: libpython{}), or name another Python with --python",
        stub.string(), python.version, python.program.string(), python.version);
}

/// Finds the standard library for the libpython that the stub loads: the Python's own, or the
/// system's where that Python was built without a shared library.
fs::path home_of(const PythonInfo& python) {
  const fs::path system = fs::path("/usr/lib") / ("python" + python.version) / "os.py";
  const bool foreign = python.libraries.empty() && fs::exists(system);
  return (foreign ? fs::path("/usr") : python.prefix) / "bin";
}

void write_text(const fs::path& file, const std::string& text) {
  std::ofstream out(file);
  out << text;
  out.close();
  check(out.good(), ErrorCode::kUnavailable, "{}: cannot be written: {}", file.string(),
        std::strerror(errno));
}

void link_all(const fs::path& from, const fs::path& to) {
  for (const fs::directory_entry& entry : fs::directory_iterator(from)) {
    const fs::path link = to / entry.path().filename();
    if (!fs::exists(fs::symlink_status(link))) fs::create_symlink(entry.path(), link);
  }
}

void make_environment(const fs::path& root, const PythonInfo& python) {
  const fs::path sites = root / "lib" / ("python" + python.version) / "site-packages";
  fs::create_directories(root / "bin");
  fs::create_directories(sites);
  fs::create_symlink(python.program, root / "bin" / "python3");
  write_text(root / "pyvenv.cfg", fmt::format("home = {}\ninclude-system-site-packages = false\n",
                                              home_of(python).string()));
  std::string lines;
  for (const fs::path& site : python.sites) {
    std::string quoted = site.string();
    for (size_t at = 0; (at = quoted.find_first_of("\\'", at)) != quoted.npos; at += 2) {
      quoted.insert(at, 1, '\\');
    }
    lines += fmt::format("import site; site.addsitedir('{}')\n", quoted);
  }
  write_text(sites / "flux-triton.pth", lines);
}

fs::path make_temporary_directory() {
  std::string name = (fs::temp_directory_path() / "flux-triton-serve-XXXXXX").string();
  check(::mkdtemp(name.data()) != nullptr, ErrorCode::kUnavailable, "{}: cannot be made: {}", name,
        std::strerror(errno));
  return name;
}

}  // namespace

PythonServing::PythonServing(const fs::path& backends, const ServerProgram& server,
                             const std::string& python, const std::vector<PythonModel>& models) {
  const fs::path backend = find_python_backend(backends, server);
  const std::vector<std::string> packages = packages_of(models);
  const PythonInfo info = ask_python(find_python(python), packages);
  const fs::path stub = find_stub(backend, info);
  check_packages(info, packages, stub);
  libraries_ = info.libraries;
  check_stub(stub, info, library_path({server.libraries, libraries_}));
  root_ = make_temporary_directory();
  try {
    const fs::path made = backend_directory();
    fs::create_directories(made / "python");
    link_all(backends, made);
    link_all(backend.parent_path(), made);
    fs::create_symlink(stub, made / "python" / kStub);
    link_all(backend, made / "python");
    make_environment(root_ / "python", info);
  } catch (const fs::filesystem_error& error) {
    fs::remove_all(root_);
    fail(ErrorCode::kUnavailable, "{}: cannot be written: {}", root_.string(), error.what());
  }
}

PythonServing::~PythonServing() {
  std::error_code ignored;
  fs::remove_all(root_, ignored);
}

}  // namespace flux::cli
