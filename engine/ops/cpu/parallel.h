#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <type_traits>

#include "ops/cpu/thread_pool.h"

namespace flux::cpu {

/// While it lives, OpenMP regions that this thread starts have one thread. oneDNN asks OpenMP for
/// its team size when a primitive is created and again when some of them run.
class SingleThreadScope {
 public:
  SingleThreadScope() : previous_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~SingleThreadScope() { omp_set_num_threads(previous_); }
  SingleThreadScope(const SingleThreadScope&) = delete;
  SingleThreadScope& operator=(const SingleThreadScope&) = delete;

 private:
  int previous_;
};

namespace internal {
template <class F>
void call_task(F& f, int64_t task, int thread) {
  if constexpr (std::is_invocable_v<F&, int64_t, int>) {
    f(task, thread);
  } else {
    f(task);
  }
}
}  // namespace internal

/// Number of threads that `multiply_adds` are worth: waking a team takes some 10 us.
inline int worthwhile_threads(int threads, int64_t multiply_adds) {
  return multiply_adds < (int64_t{1} << 20) ? 1 : threads;
}

/// Runs f(task) or f(task, thread) for each task in [0, n) on up to `threads` threads, the caller
/// among them; 0 <= thread < threads. Idle threads take the next task, so tasks may differ in
/// cost. Which thread runs a task must not matter to the result: cut the work into tasks by its
/// shape, never by the number of threads. The first exception stops the loop and is rethrown.
template <class F>
void parallel_for(int threads, int64_t n, F&& f) {
  if (n <= 0) return;
  const SingleThreadScope single;
  if (threads <= 1 || n == 1) {
    for (int64_t task = 0; task < n; ++task) internal::call_task(f, task, 0);
    return;
  }
  struct Loop {
    std::remove_reference_t<F>& f;
    int64_t n;
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    std::exception_ptr error;

    void work(int thread) {
      try {
        for (int64_t task = next++; task < n; task = next++) internal::call_task(f, task, thread);
      } catch (...) {
        next = n;
        if (!failed.exchange(true)) error = std::current_exception();
      }
    }
  } loop{f, n, {}, {}, {}};
  ThreadPool::global().run(
      static_cast<int>(std::min<int64_t>(threads, n)),
      [](void* context, int thread) { static_cast<Loop*>(context)->work(thread); }, &loop);
  if (loop.error) std::rethrow_exception(loop.error);
}

}  // namespace flux::cpu
