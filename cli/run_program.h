#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace flux::cli {

struct ProgramResult {
  int exit_code = 0;   // 128 and more: ended by a signal, as in shells
  std::string output;  // its standard output
};

/// Runs a small program to its end, without input and with its standard error dropped. Returns
/// nothing when it cannot be started. `environment` replaces variables of this process.
std::optional<ProgramResult> run_program(
    const std::filesystem::path& program, const std::vector<std::string>& arguments,
    const std::map<std::string, std::string>& environment = {});

}  // namespace flux::cli
