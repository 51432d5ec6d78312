#include "support/stop_signals.h"

#include <time.h>

#include <csignal>

namespace flux {

int StopRequests::add() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  const int64_t milliseconds = int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1000000;
  int64_t first = 0;
  if (first_.compare_exchange_strong(first, milliseconds)) return count_ = 1;
  const bool same = milliseconds - first < kOneStopRequest.count();
  return same ? count_.load() : ++count_;
}

bool hangup_is_ignored() {
  struct sigaction action {};
  return ::sigaction(SIGHUP, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

}  // namespace flux
