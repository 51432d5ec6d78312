#pragma once

#include <string>
#include <string_view>

namespace flux::cli {

/// Reads a server's log as it is written and remembers why the server did not start.
class ServerLog {
 public:
  /// Takes the next bytes of the log, cut anywhere.
  void add(std::string_view bytes);
  /// Whether the server, told to stop, no longer waits for HTTP connections but stops its models.
  bool stops_models() const { return stops_models_; }
  /// Whether the server gave up waiting for connections and requests at its end.
  bool exit_timed_out() const { return exit_timed_out_; }
  /// Returns the reason in one line: a model that could not be loaded, else the last error, else
  /// the last line; empty when there was none.
  std::string reason() const;

 private:
  void add_line(std::string_view line);

  std::string unfinished_;
  std::string usage_error_;    // about the server's own arguments
  std::string model_failure_;  // the first one
  std::string config_error_;   // the first one that the parser of config.pbtxt wrote
  std::string error_;          // the last error that the program itself wrote
  std::string logged_error_;   // the last error of the log
  std::string last_;
  bool stops_models_ = false;
  bool exit_timed_out_ = false;
};

}  // namespace flux::cli
