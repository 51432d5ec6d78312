#include "front/work_rate.h"

namespace flux::front {
namespace {

/// What the newest request weighs in the mean: it follows a change within about ten requests.
constexpr double kNewest = 0.2;

}  // namespace

void WorkRate::pass_time(Clock::time_point now) {
  if (running_ > 0) busy_ += std::chrono::duration<double>(now - seen_).count();
  seen_ = now;
}

void WorkRate::begin(Clock::time_point now) {
  pass_time(now);
  ++running_;
}

void WorkRate::end(Clock::time_point now, bool answered) {
  pass_time(now);
  --running_;
  if (answered) seconds_ = seconds_ ? *seconds_ + kNewest * (busy_ - *seconds_) : busy_;
  if (answered || running_ == 0) busy_ = 0;
}

}  // namespace flux::front
