#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "cli/python_models.h"
#include "cli/serving_files.h"

namespace flux::cli {

/// A temporary directory with the files that a server needs in order to run models in Python:
///   backends/  the given backends and the server's Python backend, by symbolic links, with the
///              stub (the program that a model.py runs in) for the version of the Python
///   python/    a virtual environment over the packages of the Python, in the form that the stub's
///              libpython reads: the stub itself honors neither PYTHONPATH nor the choice of Python
class PythonServing {
 public:
  /// `python` is the program, or empty for $FLUX_PYTHON, that of $VIRTUAL_ENV or python3 on PATH.
  /// `backends` holds this project's backend, and the Python backend unless that is beside the
  /// server. Throws kNotFound when something that the models need is missing (packages, stub,
  /// library of Python) or does not fit (numpy 2 and a server that knows numpy 1), and kUnavailable
  /// when the directory cannot be made.
  PythonServing(const std::filesystem::path& backends, const ServerProgram& server,
                const std::string& python, const std::vector<PythonModel>& models);
  ~PythonServing();
  PythonServing(const PythonServing&) = delete;
  PythonServing& operator=(const PythonServing&) = delete;

  std::filesystem::path backend_directory() const { return root_ / "backends"; }
  /// Directory that must be first on PATH.
  std::filesystem::path programs() const { return root_ / "python" / "bin"; }
  /// Directory for LD_LIBRARY_PATH; empty: none.
  const std::filesystem::path& libraries() const { return libraries_; }

 private:
  std::filesystem::path root_;
  std::filesystem::path libraries_;
};

}  // namespace flux::cli
