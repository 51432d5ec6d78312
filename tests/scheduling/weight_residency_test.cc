#include "scheduling/weight_residency.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "support/error.h"

namespace flux {
namespace {

using std::chrono::milliseconds;

bool never() { return false; }

/// A model whose weights are a flag.
struct Model {
  Model(WeightResidency& residency, std::string name, int64_t size, int64_t least = 0)
      : bytes(size),
        member(residency, {.model = std::move(name),
                           .least_bytes = least == 0 ? size : least,
                           .load = [this] { return load(); },
                           .drop = [this] { loaded = false; }}) {}

  int64_t load() {
    ++loads;
    std::this_thread::sleep_for(milliseconds(1));
    if (fails) fail(*fails, "no weights");
    EXPECT_FALSE(loaded.exchange(true));
    return bytes;
  }
  void use() { const auto used = member.use(never); }

  int64_t bytes;
  std::optional<ErrorCode> fails = {};
  std::atomic<bool> loaded = false;
  std::atomic<int> loads = 0;
  WeightResidency::Member member;
};

TEST(WeightResidency, WeightsThatFitComeOnceAndStay) {
  WeightResidency residency({.budget = 100});
  Model a(residency, "a", 60);
  Model b(residency, "b", 40);
  for (int i = 0; i < 3; ++i) {
    a.use();
    b.use();
  }
  EXPECT_EQ(a.loads, 1);
  EXPECT_EQ(b.loads, 1);
  EXPECT_EQ(residency.seconds_to_load("a"), 0);
  EXPECT_FALSE(residency.seconds_to_load("c"));
}

TEST(WeightResidency, TheLongestUnusedLeave) {
  WeightResidency residency({.budget = 100});
  Model a(residency, "a", 40);
  Model b(residency, "b", 40);
  Model c(residency, "c", 60);
  a.use();
  b.use();
  a.use();
  c.use();
  EXPECT_TRUE(a.loaded);
  EXPECT_FALSE(b.loaded);
  EXPECT_GT(*residency.seconds_to_load("b"), 0);
  b.use();
  EXPECT_FALSE(a.loaded) << "it was used before c";
  EXPECT_TRUE(c.loaded);
}

TEST(WeightResidency, WhatTheDeviceHasBoundsThemToo) {
  std::vector<Model*> models;
  WeightResidency residency({.available = [&] {
    int64_t left = 100;
    for (const Model* model : models) left -= model->loaded ? model->bytes : 0;
    return left;
  }});
  Model a(residency, "a", 60);
  Model b(residency, "b", 60);
  models = {&a, &b};
  a.use();
  b.use();
  EXPECT_FALSE(a.loaded);
  EXPECT_TRUE(b.loaded);
}

TEST(WeightResidency, WeightsInUseStayAndOthersWaitForThem) {
  WeightResidency residency({.budget = 100});
  Model a(residency, "a", 60);
  Model b(residency, "b", 60);
  std::jthread other;
  {
    const auto used = a.member.use(never);
    other = std::jthread([&] { b.use(); });
    std::this_thread::sleep_for(milliseconds(30));
    EXPECT_TRUE(a.loaded);
    EXPECT_FALSE(b.loaded);
    int asked = 0;
    try {
      const auto waits = b.member.use([&] { return ++asked > 1; });
      FAIL() << "there was room for b";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kCancelled);
    }
  }
  other.join();
  EXPECT_FALSE(a.loaded);
  EXPECT_TRUE(b.loaded);
}

TEST(WeightResidency, WeightsThatNeverFitAreRefusedAndTheOthersGoOn) {
  WeightResidency residency({.budget = 100});
  Model a(residency, "a", 60);
  Model huge(residency, "huge", 101);
  Model liar(residency, "liar", 101, 10);
  a.use();
  for (Model* model : {&huge, &liar}) {
    try {
      model->use();
      FAIL() << "there is no room";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
      EXPECT_NE(std::string(error.what()).find("may be on the device"), std::string::npos);
    }
    EXPECT_FALSE(model->loaded);
  }
  a.use();
  EXPECT_TRUE(a.loaded);
}

TEST(WeightResidency, ALoadThatFindsNoRoomGetsThatOfOthers) {
  WeightResidency residency({});
  Model a(residency, "a", 60);
  Model b(residency, "b", 60);
  a.use();
  b.fails = ErrorCode::kUnavailable;
  EXPECT_THROW(b.use(), Error);
  EXPECT_FALSE(a.loaded) << "b might have had its room";
  EXPECT_EQ(b.loads, 2);
  a.use();
  b.fails = ErrorCode::kInvalidArgument;
  EXPECT_THROW(b.use(), Error);
  EXPECT_TRUE(a.loaded) << "room was not what b needed";
  b.fails.reset();
  b.use();
  EXPECT_TRUE(b.loaded);
}

TEST(WeightResidency, AnotherIsDroppedWhenAModelAsks) {
  WeightResidency residency({});
  Model a(residency, "a", 60);
  Model b(residency, "b", 60);
  a.use();
  const auto used = b.member.use(never);
  EXPECT_EQ(b.member.drop_another(), "a");
  EXPECT_EQ(b.member.drop_another(), "");
  EXPECT_EQ(a.member.drop_another(), "") << "b is in use";
}

TEST(WeightResidency, ModelsAreUsedByManyThreadsWithinTheBudget) {
  WeightResidency residency({.budget = 100});
  std::vector<std::unique_ptr<Model>> models;
  for (int i = 0; i < 5; ++i) {
    models.push_back(std::make_unique<Model>(residency, std::to_string(i), 30 + i));
  }
  std::atomic<int> most = 0;
  {
    std::vector<std::jthread> threads;
    for (size_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (size_t i = 0; i < 50; ++i) {
          Model& model = *models[(i * (t + 1) + t) % models.size()];
          const auto used = model.member.use(never);
          EXPECT_TRUE(model.loaded);
          int there = 0;
          for (const auto& other : models) there += other->loaded;
          most = std::max<int>(most, there);
        }
      });
    }
  }
  EXPECT_LE(most, 3);
}

}  // namespace
}  // namespace flux
