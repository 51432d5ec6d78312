#include "cli/help.h"

#include <fmt/format.h>

#include <string>

namespace flux::cli {

void group_options(CLI::App& command, const char* group, std::initializer_list<const char*> names) {
  for (const char* name : names) command.get_option(name)->group(group);
}

void group_compute_options(CLI::App& command) {
  group_options(
      command, kComputeGroup,
      {"--dtype", "--quantization", "--attention", "--device", "--gpu-memory", "--threads"});
}

void add_examples(CLI::App& command, std::initializer_list<const char*> lines) {
  std::string text = lines.size() == 1 ? "Example:" : "Examples:";
  for (const char* line : lines) text += fmt::format("\n  flux-triton {}", line);
  command.footer(text);
}

}  // namespace flux::cli
