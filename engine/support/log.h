#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

#include "flux/log.h"

namespace flux {

/// Passes one line to the sink. Thread-safe.
void log(LogLevel level, std::string_view message);

template <typename... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log(LogLevel::kWarning, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace flux
