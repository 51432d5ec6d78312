#pragma once

#include <omp.h>

#include <atomic>
#include <cstdint>
#include <exception>
#include <type_traits>

namespace flux::cpu {

/// While it lives, parallel regions that this thread starts have one thread. oneDNN asks OpenMP
/// for its team size when a primitive is created and again when some of them run.
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

/// Threads that `multiply_adds` are worth: waking a team takes some 10 us.
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
  if (threads <= 1 || n == 1) {
    const SingleThreadScope single;
    for (int64_t task = 0; task < n; ++task) internal::call_task(f, task, 0);
    return;
  }
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  // The team always has `threads` members, though there may be fewer tasks: libgomp ends and
  // restarts its threads when the size of the team changes.
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num();
    try {
      for (int64_t task = next.fetch_add(1, std::memory_order_relaxed); task < n;
           task = next.fetch_add(1, std::memory_order_relaxed)) {
        internal::call_task(f, task, thread);
      }
    } catch (...) {
      next.store(n, std::memory_order_relaxed);
      if (!failed.exchange(true)) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace flux::cpu
