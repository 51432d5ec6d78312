#include "scheduling/step_scheduler.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "support/error.h"

namespace flux {
namespace {

using std::chrono::milliseconds;

bool never() { return false; }

/// Takes all steps of a job, each of which lasts as long as `step`.
void take_all(StepScheduler& scheduler, const StepScheduler::Job& job,
              const std::function<void()>& step) {
  const auto turns = scheduler.enter(job);
  for (int i = 0; i < job.steps; ++i) {
    turns->next(never);
    step();
  }
}

void wait_until(const std::function<bool()>& reached) {
  while (!reached()) std::this_thread::sleep_for(milliseconds(1));
}

TEST(StepScheduler, ARequestAloneNeverWaits) {
  StepScheduler scheduler({.policy = StepPolicy::kLeastWork});
  int steps = 0;
  take_all(scheduler, {.steps = 28, .tokens = 4608}, [&] { ++steps; });
  EXPECT_EQ(steps, 28);
  EXPECT_EQ(scheduler.waiting(), 0u);
}

TEST(StepScheduler, ComputationsAreAsManyAsLanesAndAsLargeAsTheDeviceGainsFrom) {
  for (const int lanes : {1, 2}) {
    StepScheduler scheduler({.policy = StepPolicy::kLeastWork, .lanes = lanes, .capacity = 2000});
    std::atomic<int> computing = 0;
    std::atomic<int> most = 0;
    std::atomic<int> steps = 0;
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&] {
        take_all(scheduler, {.steps = 20, .tokens = 1000}, [&] {
          const int now = ++computing;
          int seen = most;
          while (now > seen && !most.compare_exchange_weak(seen, now)) {
          }
          std::this_thread::sleep_for(std::chrono::microseconds(200));
          --computing;
          ++steps;
        });
      });
    }
    threads.clear();
    EXPECT_EQ(steps, 160);
    EXPECT_LE(most, 2 * lanes);
  }
}

TEST(StepScheduler, AShortRequestGoesBetweenTheStepsOfALongOne) {
  StepScheduler scheduler({.policy = StepPolicy::kLeastWork});
  std::atomic<int> long_steps = 0;
  std::jthread other([&] {
    take_all(scheduler, {.steps = 200, .tokens = 4608}, [&] {
      std::this_thread::sleep_for(milliseconds(1));
      ++long_steps;
    });
  });
  wait_until([&] { return long_steps > 5; });
  const int before = long_steps;
  take_all(scheduler, {.steps = 10, .tokens = 768}, [] {});
  // At most the step that was being taken, and one before this thread came to its first.
  EXPECT_LE(long_steps - before, 3);
}

TEST(StepScheduler, ShareLetsAllGoOn) {
  StepScheduler scheduler({.policy = StepPolicy::kShare});
  const auto one = scheduler.enter({.steps = 2, .tokens = 100000});
  const auto other = scheduler.enter({.steps = 2, .tokens = 100000});
  one->next(never);
  other->next(never);
  one->next(never);
  other->next(never);
}

TEST(StepScheduler, WhoIsCancelledOrLeavesGivesItsTurnUp) {
  StepScheduler scheduler({.policy = StepPolicy::kFifo});
  auto first = scheduler.enter({.steps = 5, .tokens = 1});
  first->next(never);
  const auto second = scheduler.enter({.steps = 5, .tokens = 1});
  EXPECT_THROW(second->next([] { return true; }), Error);  // cancelled while it waits
  const auto third = scheduler.enter({.steps = 5, .tokens = 1});
  std::jthread leaving([&] {
    wait_until([&] { return scheduler.waiting() == 1; });
    first.reset();  // in the midst of its step
  });
  third->next(never);
  EXPECT_EQ(scheduler.waiting(), 0u);
}

TEST(StepScheduler, ADeadlineThatCannotBeMetIsRefusedAtOnce) {
  StepScheduler scheduler({.policy = StepPolicy::kFifo});
  take_all(scheduler, {.steps = 3, .tokens = 1000},
           [] { std::this_thread::sleep_for(milliseconds(20)); });
  const auto in = [](int ms) { return StepScheduler::Clock::now() + milliseconds(ms); };
  EXPECT_THROW(scheduler.enter({.steps = 28, .tokens = 1000, .deadline = in(300)}), Error);
  EXPECT_NO_THROW(scheduler.enter({.steps = 28, .tokens = 1000, .deadline = in(5000)}));
  const auto ahead = scheduler.enter({.steps = 100, .tokens = 1000});
  EXPECT_THROW(scheduler.enter({.steps = 28, .tokens = 1000, .deadline = in(1500)}), Error);
  // It can be met no longer.
  const auto late = scheduler.enter({.steps = 1, .tokens = 1000, .deadline = in(5000)});
  const auto soon =
      scheduler.enter({.priority = 0, .steps = 2, .tokens = 1000, .deadline = in(400)});
  soon->next(never);
  std::this_thread::sleep_for(milliseconds(395));
  EXPECT_THROW(soon->next(never), Error);
}

}  // namespace
}  // namespace flux
