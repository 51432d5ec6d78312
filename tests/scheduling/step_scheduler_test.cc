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
  EXPECT_EQ(scheduler.load().waiting, 0u);
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

TEST(StepScheduler, StepsOfTwoModelsAreNotTakenTogether) {
  StepScheduler scheduler({.policy = StepPolicy::kLeastWork, .capacity = 8192});
  const auto first = scheduler.enter({.steps = 5, .tokens = 100, .model = "dev"});
  first->next(never);
  std::atomic<int> begun = 0;
  const auto take_one = [&](const char* model) {
    const auto turns = scheduler.enter({.steps = 1, .tokens = 100, .model = model});
    turns->next(never);
    ++begun;
    wait_until([&] { return begun >= 2; });
  };
  // Those of one model are tried together; that of the other has a turn of its own.
  std::jthread one([&] { take_one("schnell"); });
  std::jthread two([&] { take_one("schnell"); });
  wait_until([&] { return scheduler.load().waiting == 2; });
  std::jthread last([&] { first->next(never); });
  one.join();
  two.join();
  last.join();
  EXPECT_EQ(begun, 2);
}

TEST(StepScheduler, AStepThatWaitsForWeightsTeachesNothing) {
  StepScheduler scheduler({.policy = StepPolicy::kLeastWork});
  std::atomic<bool> loaded = false;
  const StepScheduler::Job job{.steps = 1, .tokens = 100, .model = "dev", .seconds_to_load = [&] {
                                 return loaded ? 0.0 : 3.0;
                               }};
  take_all(scheduler, job, [&] {
    std::this_thread::sleep_for(milliseconds(50));
    loaded = true;
  });
  StepScheduler::Job late = job;
  late.deadline = StepScheduler::Clock::now() + milliseconds(20);
  EXPECT_NO_THROW(scheduler.enter(late)) << "nothing is known yet";
  take_all(scheduler, job, [] { std::this_thread::sleep_for(milliseconds(50)); });
  late.deadline = StepScheduler::Clock::now() + milliseconds(20);
  EXPECT_THROW(scheduler.enter(late), Error);
  late.deadline = StepScheduler::Clock::now() + milliseconds(1000);
  EXPECT_NO_THROW(scheduler.enter(late));
  loaded = false;
  EXPECT_THROW(scheduler.enter(late), Error) << "the weights come too late";
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
    wait_until([&] { return scheduler.load().waiting == 1; });
    first.reset();  // in the midst of its step
  });
  third->next(never);
  EXPECT_EQ(scheduler.load().waiting, 0u);
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

TEST(StepScheduler, TellsWhoGoesBeforeARequestAndHowLongItTakes) {
  StepScheduler scheduler({.policy = StepPolicy::kFifo});
  const auto first = scheduler.enter({.steps = 10, .tokens = 1000});
  const auto second = scheduler.enter({.steps = 5, .tokens = 1000});
  EXPECT_EQ(second->outlook().ahead, 1u);
  EXPECT_FALSE(second->outlook().seconds.has_value()) << "no step was timed";
  first->next(never);
  std::this_thread::sleep_for(milliseconds(20));
  first->next(never);
  // Steps that have begun are not ahead any more: 8 of the first, 5 of the second.
  const double step = first->outlook().seconds.value() / 8;
  EXPECT_GE(step, 0.02);
  EXPECT_EQ(first->outlook().ahead, 0u);
  EXPECT_NEAR(second->outlook().seconds.value(), 13 * step, 1e-6);
  const auto urgent = scheduler.enter({.priority = 0, .steps = 2, .tokens = 1000});
  EXPECT_EQ(urgent->outlook().ahead, 0u);
  EXPECT_NEAR(urgent->outlook().seconds.value(), 2 * step, 1e-6);
  EXPECT_EQ(second->outlook().ahead, 2u);
  EXPECT_NEAR(second->outlook().seconds.value(), 15 * step, 1e-6);
  scheduler.set_lanes(2, 0);  // others share the lanes; a request has one
  EXPECT_NEAR(second->outlook().seconds.value(), (10 / 2.0 + 5) * step, 1e-6);
}

TEST(StepScheduler, TellsTheLoadOfEachOwner) {
  StepScheduler scheduler({.policy = StepPolicy::kFifo});
  take_all(scheduler, {.steps = 2, .tokens = 1000},
           [] { std::this_thread::sleep_for(milliseconds(5)); });
  const int a = 0;
  const int b = 0;
  const auto first = scheduler.enter({.steps = 3, .tokens = 1000, .owner = &a});
  const auto second = scheduler.enter({.steps = 6, .tokens = 1000, .owner = &b});
  EXPECT_GT(scheduler.load(&a).seconds, 0);
  EXPECT_NEAR(scheduler.load(&b).seconds, 2 * scheduler.load(&a).seconds, 1e-9);
  EXPECT_NEAR(scheduler.load().seconds, 3 * scheduler.load(&a).seconds, 1e-9);
  first->next(never);
  std::jthread waiting([&] { second->next(never); });
  wait_until([&] { return scheduler.load(&b).waiting == 1; });
  EXPECT_EQ(scheduler.load(&a).waiting, 0u);
  EXPECT_EQ(scheduler.load().waiting, 1u);
  first->pause();
}

TEST(StepScheduler, NobodyIsAheadWhereAllShare) {
  StepScheduler scheduler({.policy = StepPolicy::kShare});
  const auto first = scheduler.enter({.steps = 2, .tokens = 1000});
  const auto second = scheduler.enter({.steps = 2, .tokens = 1000});
  first->next(never);
  first->next(never);
  EXPECT_EQ(second->outlook().ahead, 0u);
  EXPECT_FALSE(second->outlook().seconds.has_value());
}

TEST(StepScheduler, WhoPausesLeavesTheDeviceToOthers) {
  StepScheduler scheduler({.policy = StepPolicy::kFifo});
  const auto first = scheduler.enter({.steps = 5, .tokens = 1});
  const auto second = scheduler.enter({.steps = 5, .tokens = 1});
  first->next(never);
  std::jthread pausing([&] {
    wait_until([&] { return scheduler.load().waiting == 1; });
    first->pause();
  });
  second->next(never);  // though it is the second
  pausing.join();
  first->pause();  // again: there is no step to end
  std::jthread waiting([&] { first->next(never); });
  wait_until([&] { return scheduler.load().waiting == 1; });
  second->pause();
}

}  // namespace
}  // namespace flux
