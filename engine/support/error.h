#pragma once

#include <fmt/format.h>

#include <filesystem>
#include <stdexcept>
#include <string>
#include <type_traits>
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

/// Name of a code as users read it, e.g. "invalid argument".
const char* to_string(ErrorCode code);

/// A place in the source. Own type because clang 14 cannot compile std::source_location.
struct SourceLocation {
  const char* file = "";
  int line = 0;

  static constexpr SourceLocation current(const char* file_name = __builtin_FILE(),
                                          int line_number = __builtin_LINE()) {
    return {file_name, line_number};
  }
};

/// The only exception the engine throws. `what()` is one line that names the thing, the value
/// found, what is allowed and what to do.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, std::string message, SourceLocation where = SourceLocation::current())
      : std::runtime_error(std::move(message)), code_(code), where_(where) {}

  ErrorCode code() const noexcept { return code_; }
  /// Where in the source it was thrown; not part of `what()`.
  const SourceLocation& where() const noexcept { return where_; }
  /// The line for a log: what(), and for a bug of this program (kInternal) the place as well.
  std::string report() const;

 private:
  ErrorCode code_;
  SourceLocation where_;
};

/// A compile-time checked format string that remembers its place in the source.
template <typename... Args>
struct LocatedFormat {
  template <typename Text>
  consteval LocatedFormat(  // NOLINT(google-explicit-constructor): stands in for a literal
      const Text& text, SourceLocation place = SourceLocation::current())
      : format(text), where(place) {}

  fmt::format_string<Args...> format;
  SourceLocation where;
};

/// Throws Error(code, formatted message). Never inlined: callers keep nothing of it but a call.
template <typename... Args>
[[noreturn, gnu::cold, gnu::noinline]] void fail(
    ErrorCode code, LocatedFormat<std::type_identity_t<Args>...> message, Args&&... args) {
  throw Error(code, fmt::format(message.format, std::forward<Args>(args)...), message.where);
}

/// Throws Error(code, formatted message) unless `condition` holds. Pass the objects that a message
/// names, not their texts: those are then composed only for an error.
template <typename... Args>
inline void check(bool condition, ErrorCode code,
                  LocatedFormat<std::type_identity_t<Args>...> message, Args&&... args) {
  if (!condition) [[unlikely]] {
    fail<Args...>(code, message, std::forward<Args>(args)...);
  }
}

}  // namespace flux

/// A path reads as it is, without the quotes of <fmt/std.h>.
template <>
struct fmt::formatter<std::filesystem::path> : fmt::formatter<fmt::string_view> {
  template <typename FormatContext>
  auto format(const std::filesystem::path& path, FormatContext& ctx) const {
    return fmt::formatter<fmt::string_view>::format(path.native(), ctx);
  }
};
