#pragma once

#include <functional>
#include <string_view>

namespace flux {

enum class LogLevel { kInfo, kWarning, kError };

using LogSink = std::function<void(LogLevel level, std::string_view message)>;

/// Sets where messages go; by default warnings and errors go to stderr. Call it once, before
/// threads start: a server puts its own log here.
void set_log_sink(LogSink sink);

}  // namespace flux
