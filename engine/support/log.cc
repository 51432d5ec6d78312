#include "support/log.h"

#include <cstdio>
#include <mutex>

namespace flux {
namespace {

struct Logger {
  std::mutex mutex;
  LogSink sink = [](LogLevel level, std::string_view message) {
    if (level == LogLevel::kInfo) return;
    const char* kind = level == LogLevel::kWarning ? "warning" : "error";
    fmt::print(stderr, "flux: {}: {}\n", kind, message);
  };
};

Logger& logger() {
  static Logger instance;
  return instance;
}

}  // namespace

void set_log_sink(LogSink sink) {
  const std::scoped_lock lock(logger().mutex);
  logger().sink = std::move(sink);
}

void log(LogLevel level, std::string_view message) {
  const std::scoped_lock lock(logger().mutex);
  if (logger().sink) logger().sink(level, message);
}

}  // namespace flux
