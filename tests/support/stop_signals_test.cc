#include "support/stop_signals.h"

#include <gtest/gtest.h>

#include <thread>

namespace flux {
namespace {

TEST(StopRequests, SignalsOfOneMomentAreOne) {
  StopRequests requests;
  EXPECT_EQ(requests.add(), 1);
  EXPECT_EQ(requests.add(), 1);
  std::this_thread::sleep_for(kOneStopRequest);
  EXPECT_EQ(requests.add(), 2);
  EXPECT_EQ(requests.add(), 3);
}

}  // namespace
}  // namespace flux
