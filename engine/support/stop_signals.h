#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace flux {

/// Signals within this time are one request to stop: `timeout`, for one, sends its signal to a
/// program and to the program's group, and a shell's Ctrl-C reaches both a wrapper, which passes it
/// on, and the program.
inline constexpr std::chrono::milliseconds kOneStopRequest(200);

/// Counts requests to stop.
class StopRequests {
 public:
  /// Counts a signal that came now. Returns how many requests there were. May be called by a signal
  /// handler.
  int add();

 private:
  std::atomic<int64_t> first_ = 0;  // milliseconds of the monotonic clock
  std::atomic<int> count_ = 0;
};

/// Whether the program was started to outlive its terminal, as by nohup: then SIGHUP is ignored.
bool hangup_is_ignored();

}  // namespace flux
