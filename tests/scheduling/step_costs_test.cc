#include "scheduling/step_costs.h"

#include <gtest/gtest.h>

namespace flux {
namespace {

TEST(StepCosts, NothingIsKnownAtFirst) {
  StepCosts costs;
  EXPECT_FALSE(costs.of(4608));
  costs.learn(4608, 0);
  EXPECT_FALSE(costs.of(4608));
}

TEST(StepCosts, MeasuredOnesAreAveraged) {
  StepCosts costs;
  for (int i = 0; i < 100; ++i) costs.learn(4608, i % 2 == 0 ? 0.11 : 0.13);
  EXPECT_NEAR(*costs.of(4608), 0.12, 0.002);
  for (int i = 0; i < 100; ++i) costs.learn(4608, 0.2);  // the device has become slower
  EXPECT_NEAR(*costs.of(4608), 0.2, 0.002);
}

TEST(StepCosts, OneThatWaitedForSomethingElseCountsLittle) {
  StepCosts costs;
  for (int i = 0; i < 20; ++i) costs.learn(4608, 0.1);
  costs.learn(4608, 30);
  EXPECT_LT(*costs.of(4608), 0.13);
}

TEST(StepCosts, TheFirstStepOfASizeMayHaveTakenLonger) {
  StepCosts costs;
  costs.learn(4608, 2);
  costs.learn(4608, 0.1);
  EXPECT_NEAR(*costs.of(4608), 0.1, 1e-9);
}

TEST(StepCosts, StepsAreTakenTogetherWhereThatSavesATenth) {
  StepCosts costs;
  EXPECT_TRUE(costs.gain_together(512, 512));
  costs.learn(512, 0.02);
  costs.learn(1024, 0.03);
  EXPECT_TRUE(costs.gain_together(512, 512));  // measured once is not enough
  costs.learn(1024, 0.03);
  EXPECT_TRUE(costs.gain_together(512, 512));
  for (int i = 0; i < 100; ++i) costs.learn(1024, 0.037);
  EXPECT_FALSE(costs.gain_together(512, 512));
  EXPECT_TRUE(costs.gain_together(4608, 4608));
}

TEST(StepCosts, TheMedianErrorIsThatOfTheLastSteps) {
  StepCosts costs;
  EXPECT_FALSE(costs.median_error());
  costs.learn(1000, 0.1);
  EXPECT_FALSE(costs.median_error());  // there was no estimate
  costs.learn(1000, 0.2);
  EXPECT_NEAR(*costs.median_error(), 0.5, 1e-9);
  for (int i = 0; i < 400; ++i) costs.learn(1000, i % 2 == 0 ? 0.19 : 0.21);
  EXPECT_NEAR(*costs.median_error(), 0.05, 0.01);
}

TEST(StepCosts, OthersLieBetweenOrInProportion) {
  StepCosts costs;
  costs.learn(768, 0.02);
  costs.learn(4608, 0.12);
  EXPECT_NEAR(*costs.of(2688), 0.07, 0.002);
  EXPECT_NEAR(*costs.of(9216), 0.24, 0.004);
  EXPECT_EQ(*costs.of(100), 0.02);
}

}  // namespace
}  // namespace flux
