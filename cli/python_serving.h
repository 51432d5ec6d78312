#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "cli/serving_files.h"

namespace flux::cli {

/// The models of a repository that Triton's Python backend runs.
std::vector<std::string> models_in_python(const std::filesystem::path& repository);

/// What a server needs in order to run models in Python, put together in a temporary directory:
///   backends/  the given backends and the server's Python backend, by symbolic links, with the
///   stub
///              (the program that a model.py runs in) that fits the Python
///   python/    a virtual environment over the packages of the Python, of the kind that the stub's
///              library of Python reads: the stub itself heeds neither PYTHONPATH nor which Python
///              is meant
class PythonServing {
 public:
  /// `python`: the program, or empty for $FLUX_PYTHON, that of $VIRTUAL_ENV or python3 on PATH.
  /// `backends`: holds this project's backend, and the Python backend unless that is beside the
  /// server. Throws kNotFound when something is missing (packages, stub, library of Python) and
  /// kUnavailable when the directory cannot be made.
  PythonServing(const std::filesystem::path& backends, const ServerProgram& server,
                const std::string& python);
  ~PythonServing();
  PythonServing(const PythonServing&) = delete;
  PythonServing& operator=(const PythonServing&) = delete;

  std::filesystem::path backend_directory() const { return root_ / "backends"; }
  /// To go first on PATH.
  std::filesystem::path programs() const { return root_ / "python" / "bin"; }
  /// To go on LD_LIBRARY_PATH; empty: none.
  const std::filesystem::path& libraries() const { return libraries_; }

 private:
  std::filesystem::path root_;
  std::filesystem::path libraries_;
};

}  // namespace flux::cli
