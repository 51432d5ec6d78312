#pragma once

#include <string>
#include <string_view>

namespace flux::cli {

/// Reads a server's log along and remembers why it did not start.
class ServerLog {
 public:
  /// The next bytes of the log, cut anywhere.
  void add(std::string_view bytes);
  /// The reason in one line: a model that could not be loaded, else what it called an error, else
  /// the last line; empty when there was nothing.
  std::string reason() const;

 private:
  void add_line(std::string_view line);

  std::string unfinished_;
  std::string model_failure_;  // the first
  std::string error_;          // the last that the program wrote itself
  std::string logged_error_;   // the last of the log
  std::string last_;
};

}  // namespace flux::cli
