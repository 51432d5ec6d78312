#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace flux::cli {

/// Writes a log to standard error without ever waiting for its reader: what does not go out at once
/// is kept, up to a bound, and lines beyond it are dropped and counted.
class LogWriter {
 public:
  /// Takes the next bytes of the log.
  void add(std::string_view bytes);
  /// Writes what can be written now.
  void flush();
  bool has_more() const { return !kept_.empty(); }

 private:
  void write_some();

  std::string kept_;
  size_t dropped_ = 0;      // lines since the reader stopped
  bool in_a_drop_ = false;  // the next bytes belong to a line whose beginning was dropped
};

}  // namespace flux::cli
