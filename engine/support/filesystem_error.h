#pragma once

#include <filesystem>

#include "support/error.h"

namespace flux {

/// What the standard library could not do with a file, as an error that names the file: one in a
/// directory that must not be read, for example.
inline Error as_error(const std::filesystem::filesystem_error& error) {
  return {ErrorCode::kUnavailable,
          fmt::format("{}: cannot be used: {}", error.path1(), error.code().message())};
}

}  // namespace flux
