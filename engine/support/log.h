#pragma once

#include <fmt/format.h>

#include <functional>
#include <string>
#include <string_view>
#include <utility>

namespace flux {

enum class LogLevel { kInfo, kWarning, kError };

using LogSink = std::function<void(LogLevel level, std::string_view message)>;

/// Sets where messages go; by default warnings and errors go to stderr. Call it once, before
/// threads start: a server puts its own log here.
void set_log_sink(LogSink sink);
/// Passes one line to the sink. Thread-safe.
void log(LogLevel level, std::string_view message);

template <typename... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log(LogLevel::kWarning, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace flux
