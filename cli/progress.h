#pragma once

#include <chrono>
#include <string>

namespace flux::cli {

/// A progress bar on standard error for the denoising steps. Where that is not a terminal, a line
/// now and then instead, for logs: none of what takes seconds.
class Progress {
 public:
  enum class Mode { kAutomatic, kOff };

  explicit Progress(Mode mode);
  /// Removes the bar.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Shows the current phase, e.g. "loading".
  void phase(const std::string& name);
  void step(int done, int total);

 private:
  void show(const std::string& line);

  /// Writes a line when the last one is long ago.
  void log_line(const std::string& line);

  bool wanted_;
  bool active_;
  std::chrono::steady_clock::time_point logged_;
  std::chrono::steady_clock::time_point start_;
};

/// Formats the bar: "step  7/28 [#####---------------]  0.51 s/step, 10.7 s left".
std::string progress_line(int done, int total, double seconds);

}  // namespace flux::cli
