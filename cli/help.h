#pragma once

#include <CLI/CLI.hpp>
#include <initializer_list>

/// What --help shows besides the options: their groups, in the order of the first member of each,
/// and examples. Options without a group come first, under "Options".
namespace flux::cli {

inline constexpr const char* kComputeGroup = "Compute";
inline constexpr const char* kOutputGroup = "Output";

/// Puts options of the command under a heading.
void group_options(CLI::App& command, const char* group, std::initializer_list<const char*> names);
/// Puts those of add_compute_options() under kComputeGroup.
void group_compute_options(CLI::App& command);

/// Shows command lines at the end; each begins with the name of the command.
void add_examples(CLI::App& command, std::initializer_list<const char*> lines);

}  // namespace flux::cli
