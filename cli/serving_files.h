#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

/// Finds the server and the backend on this machine.
namespace flux::cli {

/// Returns whether `file` can be run.
bool is_program(const std::filesystem::path& file);

/// Returns the program of that name on PATH.
std::optional<std::filesystem::path> on_path(const char* name);

struct ServerProgram {
  std::filesystem::path program;    // tritonserver
  std::filesystem::path libraries;  // for LD_LIBRARY_PATH; empty: none
};

/// Returns `given`, or else $TRITONSERVER, or else the first of: tritonserver on PATH,
/// /opt/tritonserver/bin, the PyPI package nvidia-pytriton of $FLUX_TRITON_VENV, of .venv-serving
/// beside this program's build directory, of the python3 on PATH. Throws kNotFound saying how to
/// get one.
ServerProgram find_server(const std::string& given);

/// Puts these directories (empty ones left out) before the value of LD_LIBRARY_PATH.
std::string library_path(const std::vector<std::filesystem::path>& directories);

/// Returns the directory that holds flux/libtriton_flux.so: `given`, or else near this program.
/// Throws kNotFound.
std::filesystem::path find_backend_directory(const std::string& given);

/// Returns the program flux-triton-front, near this program; nothing where it was not built or not
/// installed.
std::optional<std::filesystem::path> find_front();

}  // namespace flux::cli
