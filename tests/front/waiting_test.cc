#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "front/waiting_line.h"
#include "front/work_rate.h"

namespace flux::front {
namespace {

TEST(WaitingLine, OrdersByPriorityThenArrival) {
  WaitingLine<std::string> line;
  line.add(5, "first");
  const auto second = line.add(5, "second");
  const auto urgent = line.add(1, "urgent");
  line.add(9, "low");
  EXPECT_EQ(line.position(urgent), 0U);
  EXPECT_EQ(line.position(second), 2U);
  EXPECT_EQ(line.position_of_next(1), 1U);
  EXPECT_EQ(line.position_of_next(5), 3U);
  EXPECT_EQ(line.position_of_next(10), 4U);
  line.remove(second);
  line.remove(second);  // which has left
  std::vector<std::string> order;
  line.for_each([&](const std::string& each) { order.push_back(each); });
  EXPECT_EQ(order, (std::vector<std::string>{"urgent", "first", "low"}));
  EXPECT_EQ(line.take_first(), "urgent");
  EXPECT_EQ(line.size(), 2U);
  line.take_first();
  line.take_first();
  EXPECT_EQ(line.take_first(), std::nullopt);
}

class WorkRateTest : public testing::Test {
 protected:
  void pass(double seconds) {
    now += std::chrono::duration_cast<WorkRate::Clock::duration>(
        std::chrono::duration<double>(seconds));
  }
  WorkRate rate;
  WorkRate::Clock::time_point now = {};
};

TEST_F(WorkRateTest, MeasuresBusyTimeOnly) {
  EXPECT_EQ(rate.seconds_each(), std::nullopt);
  rate.begin(now);
  pass(2);
  rate.end(now, true);
  EXPECT_NEAR(*rate.seconds_each(), 2, 1e-9);
  pass(100);  // nobody asks
  rate.begin(now);
  pass(2);
  rate.end(now, true);
  EXPECT_NEAR(*rate.seconds_each(), 2, 1e-9);
}

TEST_F(WorkRateTest, RequestsSideBySideShareTheTime) {
  for (int i = 0; i < 4; ++i) rate.begin(now);
  for (int i = 0; i < 4; ++i) {
    pass(1);
    rate.end(now, true);
  }
  EXPECT_NEAR(*rate.seconds_each(), 1, 1e-9);
}

TEST_F(WorkRateTest, WhatFailsIsNoMeasure) {
  rate.begin(now);
  pass(50);
  rate.end(now, false);
  EXPECT_EQ(rate.seconds_each(), std::nullopt);
  rate.begin(now);
  pass(1);
  rate.end(now, true);
  EXPECT_NEAR(*rate.seconds_each(), 1, 1e-9);
}

TEST_F(WorkRateTest, FollowsChanges) {
  for (int i = 0; i < 30; ++i) {
    rate.begin(now);
    pass(i < 10 ? 1 : 3);
    rate.end(now, true);
  }
  EXPECT_NEAR(*rate.seconds_each(), 3, 0.1);
}

}  // namespace
}  // namespace flux::front
