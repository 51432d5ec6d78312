#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

/// Where the server and the backend are on this machine.
namespace flux::cli {

/// Whether `file` can be run.
bool is_program(const std::filesystem::path& file);

/// The program of that name on PATH.
std::optional<std::filesystem::path> on_path(const char* name);

struct ServerProgram {
  std::filesystem::path program;    // tritonserver
  std::filesystem::path libraries;  // to go on LD_LIBRARY_PATH; empty: none
};

/// `given`, or else $TRITONSERVER, or else the first of: tritonserver on PATH,
/// /opt/tritonserver/bin, the PyPI package nvidia-pytriton of $FLUX_TRITON_VENV, of .venv-serving
/// beside this program's build directory, of the python3 on PATH. Throws kNotFound saying how to
/// get one.
ServerProgram find_server(const std::string& given);

/// These directories (empty ones left out) before what is on LD_LIBRARY_PATH.
std::string library_path(const std::vector<std::filesystem::path>& directories);

/// The directory that holds flux/libtriton_flux.so: `given`, or else near this program. Throws
/// kNotFound.
std::filesystem::path find_backend_directory(const std::string& given);

}  // namespace flux::cli
