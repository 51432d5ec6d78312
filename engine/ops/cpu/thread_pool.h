#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace flux::cpu {

/// Threads that help all callers of the process. A caller never waits for a helper that has not
/// begun: where other programs hold the processors, it does the work itself.
class ThreadPool {
 public:
  /// The pool of the process.
  static ThreadPool& global();

  ThreadPool() = default;
  /// Waits for its threads to end.
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// Calls work(context, thread) at once on the caller, with thread 0, and on up to `threads` - 1
  /// others, each with a number of its own below `threads`. Returns when all that began are back.
  /// `work` distributes its tasks itself and must not throw.
  void run(int threads, void (*work)(void* context, int thread), void* context);

 private:
  struct Job {
    void (*work)(void* context, int thread);
    void* context;
    int joined;                   // threads that have a number
    int limit;                    // the most of them
    std::atomic<int> working{0};  // helpers that have not returned
  };

  void start(int helpers);
  void help();
  Job* take(int& thread);

  std::mutex mutex_;
  std::vector<Job*> jobs_;  // jobs that want helpers, in order of arrival
  std::vector<std::thread> helpers_;
  bool ending_ = false;
  std::condition_variable wake_;     // helpers: there is a job
  std::condition_variable back_;     // callers: a job's helpers are back
  std::atomic<uint32_t> posted_{0};  // jobs so far; helpers watch it before they sleep
};

}  // namespace flux::cpu
