#pragma once

#include <fmt/format.h>

#include <filesystem>
#include <string>
#include <type_traits>
#include <utility>

#include "flux/error.h"

namespace flux {

/// Name of a code as users read it, e.g. "invalid argument".
const char* to_string(ErrorCode code);

/// The line of an error for a log: what(), and for a bug of this program (kInternal) the place as
/// well.
std::string report_of(const Error& error);

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
