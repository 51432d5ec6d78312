#pragma once

#include <chrono>
#include <cstdint>

namespace flux::triton {

using Clock = std::chrono::steady_clock;

/// Nanoseconds for the server's statistics.
inline uint64_t now_ns() {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch())
          .count());
}

}  // namespace flux::triton
