#include "ops/cpu/thread_pool.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <system_error>

#include "support/log.h"

namespace flux::cpu {
namespace {

/// A thread spins this long before it sleeps: waking it takes some 20 us, more on a busy machine,
/// and the gaps inside a model's step are shorter than this.
constexpr auto kSpin = std::chrono::microseconds(100);

void pause_processor() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

/// Spins for a moment; returns whether `done` became true.
template <typename Done>
bool spin_until(const Done& done) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (done()) return true;
      pause_processor();
    }
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

}  // namespace

ThreadPool& ThreadPool::global() {
  static ThreadPool pool;
  return pool;
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    posted_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

/// The caller holds the mutex.
void ThreadPool::start(int helpers) {
  try {
    while (static_cast<int>(helpers_.size()) < helpers) {
      helpers_.emplace_back([this] { help(); });
    }
  } catch (const std::system_error& error) {
    log_warning("no more threads than {} can be started ({}): work is done by fewer",
                helpers_.size(), error.what());
  }
}

void ThreadPool::run(int threads, void (*work)(void* context, int thread), void* context) {
  Job job{work, context, 1, threads, {}};
  {
    const std::lock_guard lock(mutex_);
    if (static_cast<int>(helpers_.size()) < threads - 1) start(threads - 1);
    jobs_.push_back(&job);
    posted_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  work(context, 0);
  {
    const std::lock_guard lock(mutex_);
    std::erase(jobs_, &job);  // no helper joins from here on
  }
  const auto done = [&] { return job.working.load(std::memory_order_acquire) == 0; };
  if (spin_until(done)) return;
  std::unique_lock lock(mutex_);
  back_.wait(lock, done);
}

/// Joins the first job that wants a helper; `thread` becomes this helper's number there. Returns
/// null when no job does. The caller holds the mutex.
ThreadPool::Job* ThreadPool::take(int& thread) {
  if (jobs_.empty()) return nullptr;
  Job* job = jobs_.front();
  thread = job->joined++;
  job->working.fetch_add(1, std::memory_order_relaxed);
  if (job->joined == job->limit) jobs_.erase(jobs_.begin());
  return job;
}

void ThreadPool::help() {
  omp_set_num_threads(1);  // oneDNN's loops on this thread
  std::unique_lock lock(mutex_);
  while (!ending_) {
    int thread = 0;
    if (Job* job = take(thread)) {
      lock.unlock();
      job->work(job->context, thread);
      lock.lock();
      // The job is destroyed as soon as its caller sees that all helpers are back.
      if (job->working.fetch_sub(1, std::memory_order_release) == 1) back_.notify_all();
      continue;
    }
    const uint32_t seen = posted_.load(std::memory_order_acquire);
    const auto changed = [&] { return posted_.load(std::memory_order_acquire) != seen; };
    lock.unlock();
    const bool came = spin_until(changed);
    lock.lock();
    if (!came) wake_.wait(lock, [&] { return changed() || ending_; });
  }
}

}  // namespace flux::cpu
