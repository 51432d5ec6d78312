#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace flux::cli {

/// A model that Triton's Python backend runs.
struct PythonModel {
  std::string name;
  /// What it needs of the Python that `serve` chooses. A model.py of convert lists its packages. Of
  /// any other one only the backend's own need is known, numpy. Empty where config.pbtxt names a
  /// packed environment (EXECUTION_ENV_PATH) instead of that Python.
  std::vector<std::string> packages;
};

/// Returns the models of a repository that Triton's Python backend runs.
std::vector<PythonModel> models_in_python(const std::filesystem::path& repository);

}  // namespace flux::cli
