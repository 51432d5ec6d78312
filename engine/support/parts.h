#pragma once

#include <cstdint>
#include <future>
#include <vector>

namespace flux {

/// Calls f(0) to f(parts - 1), each but the first in a thread of its own. When all have ended, an
/// exception of one of them is thrown.
template <typename F>
void for_each_part(int64_t parts, const F& f) {
  std::vector<std::future<void>> others;  // each waits for its thread when it is destroyed
  for (int64_t i = 1; i < parts; ++i) {
    others.push_back(std::async(std::launch::async, [&f, i] { f(i); }));
  }
  f(0);
  for (std::future<void>& other : others) other.get();
}

}  // namespace flux
