#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "support/file.h"

namespace flux::cli {

/// A file that a command is to write, and the option that names it.
struct OutputFile {
  const char* option;
  std::filesystem::path file;
};

/// Checks before the work begins that files can be written: throws UsageError for what is neither a
/// regular file nor a device such as /dev/null, and for two that are the same file; Error where
/// there is no directory for one.
void check_output_files(const std::vector<OutputFile>& outputs);

/// Throws UsageError for the name of a new or regular file that is no image file's.
void check_image_name(const OutputFile& output);

/// Throws UsageError for the name of a new or regular file that does not end in .safetensors.
void check_safetensors_name(const OutputFile& output);

}  // namespace flux::cli
