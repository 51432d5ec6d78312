#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace flux {

/// Kind of a failure. Front ends map it to exit codes and to gRPC and HTTP status.
enum class ErrorCode {
  kInvalidArgument,  // a value from the user, a file or a client is not allowed
  kNotFound,         // a file, component or tensor is missing
  kUnavailable,      // out of memory, a full disk, a stage that is not loaded
  kCancelled,        // the caller asked to stop
  kUnsupported,      // understood, but not implemented for this device or dtype
  kInternal,         // a bug in this program
};

/// A place in the source. Own type because clang 14 cannot compile std::source_location.
struct SourceLocation {
  const char* file = "";
  int line = 0;

  static constexpr SourceLocation current(const char* file_name = __builtin_FILE(),
                                          int line_number = __builtin_LINE()) {
    return {file_name, line_number};
  }
};

/// The only exception that is thrown. `what()` is one line that names the thing, the value found,
/// what is allowed and what to do.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, std::string message, SourceLocation where = SourceLocation::current())
      : std::runtime_error(std::move(message)), code_(code), where_(where) {}

  ErrorCode code() const noexcept { return code_; }
  /// Where in the source of this library it was thrown; not part of `what()`.
  const SourceLocation& where() const noexcept { return where_; }

 private:
  ErrorCode code_;
  SourceLocation where_;
};

}  // namespace flux
