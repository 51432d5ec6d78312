#include "ops/cpu/parallel.h"

#include <gtest/gtest.h>

#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

namespace flux::cpu {
namespace {

TEST(ParallelFor, RunsEveryTaskOnce) {
  for (const int threads : {1, 2, 5, 16}) {
    for (const int64_t n : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(n));
      parallel_for(threads, n, [&](int64_t task) { ++runs[static_cast<size_t>(task)]; });
      for (const std::atomic<int>& count : runs) EXPECT_EQ(count, 1) << threads << " threads";
    }
  }
}

TEST(ParallelFor, NumbersThreadsBelowTheLimitAndNeverTwiceAtATime) {
  constexpr int kThreads = 4;
  std::atomic<bool> busy[kThreads] = {};
  std::atomic<int> clashes{0};
  std::atomic<int> beyond{0};
  parallel_for(kThreads, 2000, [&](int64_t, int thread) {
    if (thread < 0 || thread >= kThreads) {
      ++beyond;
      return;
    }
    if (busy[thread].exchange(true)) ++clashes;
    busy[thread] = false;
  });
  EXPECT_EQ(beyond, 0);
  EXPECT_EQ(clashes, 0);
}

TEST(ParallelFor, GetsHelp) {
  // Each task waits for the other: both threads are needed.
  std::atomic<int> begun{0};
  parallel_for(2, 2, [&](int64_t) {
    ++begun;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (begun < 2 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  });
  EXPECT_EQ(begun, 2);
}

TEST(ParallelFor, RethrowsTheFirstErrorAndWorksAfterwards) {
  for (int round = 0; round < 50; ++round) {
    EXPECT_THROW(parallel_for(3, 100,
                              [&](int64_t task) {
                                if (task % 10 == 3) throw std::runtime_error("task");
                              }),
                 std::runtime_error);
  }
  std::atomic<int64_t> sum{0};
  parallel_for(3, 100, [&](int64_t task) { sum += task; });
  EXPECT_EQ(sum, 4950);
}

TEST(ParallelFor, MayBeCalledInsideATaskAndByManyThreads) {
  std::vector<std::thread> callers;
  std::atomic<int64_t> sum{0};
  for (int caller = 0; caller < 6; ++caller) {
    callers.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        parallel_for(3, 4,
                     [&](int64_t) { parallel_for(2, 5, [&](int64_t inner) { sum += inner; }); });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(sum, 6 * 200 * 4 * 10);
}

TEST(ThreadPool, EndsWithItsThreads) {
  for (int round = 0; round < 20; ++round) {
    ThreadPool pool;
    std::atomic<int> calls{0};
    pool.run(
        4, [](void* context, int) { ++*static_cast<std::atomic<int>*>(context); }, &calls);
    EXPECT_GE(calls, 1);
    EXPECT_LE(calls, 4);
  }
}

}  // namespace
}  // namespace flux::cpu
