#include "scheduling/step_policy.h"

#include <gtest/gtest.h>

#include <random>

#include "scheduling/simulated_device.h"
#include "support/error.h"

namespace flux {
namespace {

using scheduling::Arrival;
using scheduling::Finished;
using scheduling::simulate;

constexpr double kBound = 8;

StepCandidate candidate(double remaining, double alone, double waited = 0) {
  StepCandidate made;
  made.remaining = remaining;
  made.alone = alone;
  made.waited = waited;
  made.tokens = 1000;
  return made;
}

std::vector<size_t> chosen(std::vector<StepCandidate> candidates, StepPolicy policy,
                           int64_t capacity = 0, const StepCosts& costs = {}) {
  for (size_t i = 0; i < candidates.size(); ++i) {
    candidates[i].order = i;
    if (candidates[i].costs == nullptr) candidates[i].costs = &costs;
  }
  return choose_step(candidates, policy, kBound, capacity);
}

TEST(StepPolicy, NamesAreRead) {
  for (const char* name : {"share", "fifo", "least-work"}) {
    EXPECT_EQ(name_of(parse_step_policy(name)), name);
  }
  EXPECT_THROW(parse_step_policy("lifo"), Error);
}

TEST(StepPolicy, NobodyIsChosenOfNone) {
  for (const auto policy : {StepPolicy::kShare, StepPolicy::kFifo, StepPolicy::kLeastWork}) {
    EXPECT_TRUE(choose_step({}, policy, kBound, 8192).empty());
  }
}

TEST(StepPolicy, TheOrderIsThePolicys) {
  const std::vector<StepCandidate> candidates = {candidate(3, 3, 1), candidate(0.1, 0.1),
                                                 candidate(1, 1)};
  EXPECT_EQ(chosen(candidates, StepPolicy::kFifo), std::vector<size_t>({0}));
  EXPECT_EQ(chosen(candidates, StepPolicy::kLeastWork), std::vector<size_t>({1}));
  EXPECT_EQ(chosen(candidates, StepPolicy::kShare).size(), 3u);
}

TEST(StepPolicy, EqualOnesGoInTheOrderOfArrival) {
  const std::vector<StepCandidate> candidates(5, candidate(1, 1));
  EXPECT_EQ(chosen(candidates, StepPolicy::kLeastWork, 3000), std::vector<size_t>({0, 1, 2}));
}

TEST(StepPolicy, AStepTakesAsManyTokensAsTheDeviceGainsFrom) {
  std::vector<StepCandidate> candidates = {candidate(1, 1), candidate(2, 2), candidate(3, 3)};
  candidates[1].tokens = 5000;
  EXPECT_EQ(chosen(candidates, StepPolicy::kLeastWork, 8192), std::vector<size_t>({0, 1, 2}));
  EXPECT_EQ(chosen(candidates, StepPolicy::kLeastWork, 4096), std::vector<size_t>({0, 2}));
  candidates[0].tokens = 9000;  // more than there is room for: alone
  EXPECT_EQ(chosen(candidates, StepPolicy::kLeastWork, 8192), std::vector<size_t>({0}));
}

TEST(StepPolicy, WhatGainsNothingTogetherIsLeftForLater) {
  StepCosts costs;
  for (int i = 0; i < 3; ++i) {
    costs.learn(1000, 0.02);
    costs.learn(2000, 0.022);
    costs.learn(3000, 0.042);
  }
  const std::vector<StepCandidate> candidates(4, candidate(1, 1));
  EXPECT_EQ(chosen(candidates, StepPolicy::kLeastWork, 8192, costs), std::vector<size_t>({0, 1}));
}

TEST(StepPolicy, ClassesComeFirst) {
  std::vector<StepCandidate> candidates = {candidate(0.1, 0.1), candidate(3, 3)};
  candidates[0].priority = 2;
  EXPECT_EQ(chosen(candidates, StepPolicy::kLeastWork), std::vector<size_t>({1}));
  EXPECT_EQ(chosen(candidates, StepPolicy::kFifo), std::vector<size_t>({1}));
}

TEST(StepPolicy, WhoWaitedLongGoesBeforeSmallOnes) {
  const std::vector<StepCandidate> candidates = {candidate(0.1, 0.1), candidate(3, 3, 21.5)};
  EXPECT_EQ(chosen(candidates, StepPolicy::kLeastWork), std::vector<size_t>({1}));
  // Of two beyond the bound the one that has been slowed down more.
  EXPECT_EQ(chosen({candidate(3, 3, 30), candidate(0.1, 0.1, 2)}, StepPolicy::kLeastWork),
            std::vector<size_t>({1}));
}

/// Images as one GPU serves them: small, middling and large ones.
std::vector<Arrival> arrivals_of(uint32_t seed, double load, int count) {
  constexpr double kMean = 0.5 * 4 * 0.0205 + 0.35 * 28 * 0.0365 + 0.15 * 28 * 0.117;
  std::mt19937 generator(seed);
  std::exponential_distribution<double> gap(load / kMean);
  std::uniform_real_distribution<double> kind;
  std::vector<Arrival> arrivals;
  double time = 0;
  for (int i = 0; i < count; ++i) {
    time += gap(generator);
    const double drawn = kind(generator);
    if (drawn < 0.5) {
      arrivals.push_back({time, 4, 0.0205, 768});
    } else if (drawn < 0.85) {
      arrivals.push_back({time, 28, 0.0365, 1536});
    } else {
      arrivals.push_back({time, 28, 0.117, 4608});
    }
  }
  return arrivals;
}

struct Figures {
  double latency = 0;
  double slowdown = 0;
  double worst = 0;
};
Figures figures_of(StepPolicy policy, double load, int count = 165, int seeds = 20) {
  Figures figures;
  for (int seed = 0; seed < seeds; ++seed) {
    const auto arrivals = arrivals_of(static_cast<uint32_t>(seed), load, count);
    const std::vector<Finished> finished = simulate(arrivals, policy, kBound);
    for (const Finished& image : finished) {
      figures.latency += image.latency / (count * seeds);
      figures.slowdown += image.slowdown / (count * seeds);
      figures.worst = std::max(figures.worst, image.slowdown);
    }
  }
  return figures;
}

TEST(StepPolicy, LeastWorkHalvesTheMeanLatency) {
  const Figures fifo = figures_of(StepPolicy::kFifo, 0.8);
  const Figures least = figures_of(StepPolicy::kLeastWork, 0.8);
  EXPECT_LT(least.latency, 0.6 * fifo.latency);
  EXPECT_LT(least.slowdown, 2.5);
}

TEST(StepPolicy, NothingIsLostAndTheDeviceNeverIdles) {
  for (uint32_t seed = 0; seed < 30; ++seed) {
    const auto arrivals = arrivals_of(seed, 0.5 + 0.03 * seed, 100);
    const auto fifo = simulate(arrivals, StepPolicy::kFifo, kBound);
    const auto least = simulate(arrivals, StepPolicy::kLeastWork, kBound);
    ASSERT_EQ(fifo.size(), arrivals.size());
    ASSERT_EQ(least.size(), arrivals.size());
    const auto last_end = [](const std::vector<Finished>& images) {
      double last = 0;
      for (const Finished& image : images) last = std::max(last, image.end);
      return last;
    };
    EXPECT_NEAR(last_end(fifo), last_end(least), 1e-6);
  }
}

TEST(StepPolicy, AgeingHoldsItsBoundWhereTheLoadAllows) {
  EXPECT_LE(figures_of(StepPolicy::kLeastWork, 0.5, 400).worst, kBound);
  // Where it does not, everybody is slowed down alike: nobody starves.
  const Figures fifo = figures_of(StepPolicy::kFifo, 1.2);
  const Figures least = figures_of(StepPolicy::kLeastWork, 1.2);
  EXPECT_LT(least.worst, 0.1 * fifo.worst);
}

TEST(StepPolicy, AModelGoesOnUntilTheOtherHasWaitedForLong) {
  // A short request whose weights are absent, and longer ones whose weights are there.
  StepCandidate absent = candidate(0.3, 0.3);
  absent.to_load = 3;
  EXPECT_EQ(chosen({absent, candidate(3, 3)}, StepPolicy::kLeastWork)[0], 1u);
  absent.waited = 7 * 3.3;
  EXPECT_EQ(chosen({absent, candidate(3, 3)}, StepPolicy::kLeastWork)[0], 0u) << "at the bound";
  // Once they are there it goes at once.
  absent.to_load = 0;
  absent.waited = 3;
  EXPECT_EQ(chosen({absent, candidate(3, 3)}, StepPolicy::kLeastWork)[0], 0u);
}

TEST(StepPolicy, OnlyStepsOfOneModelGoTogether) {
  const StepCosts one;
  const StepCosts other;
  std::vector<StepCandidate> candidates = {candidate(1, 1), candidate(2, 2), candidate(3, 3)};
  candidates[0].costs = &one;
  candidates[1].costs = &other;
  candidates[2].costs = &one;
  EXPECT_EQ(chosen(candidates, StepPolicy::kLeastWork, 8192), (std::vector<size_t>{0, 2}));
}

}  // namespace
}  // namespace flux
