#pragma once

#include <chrono>
#include <optional>

namespace flux::front {

/// How long a request keeps a pipeline busy, from those that it has answered: the time in which it
/// had anything to do, for each of them. Requests that run together share their time.
class WorkRate {
 public:
  using Clock = std::chrono::steady_clock;

  void begin(Clock::time_point now);
  /// `answered`: with images; what failed or was cancelled is no measure.
  void end(Clock::time_point now, bool answered);

  /// The mean of recent requests; nothing before the first.
  std::optional<double> seconds_each() const { return seconds_; }

 private:
  void pass_time(Clock::time_point now);

  int running_ = 0;
  double busy_ = 0;  // seconds since the last answer
  Clock::time_point seen_ = {};
  std::optional<double> seconds_;
};

}  // namespace flux::front
