#include "support/error.h"

#include <gtest/gtest.h>

namespace flux {
namespace {

TEST(Error, ReportsWhereABugWasFound) {
  const int line = __LINE__ + 2;
  try {
    check(1 + 1 == 3, ErrorCode::kInternal, "{} is {}", "the sum", 2);
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "the sum is 2");
    EXPECT_EQ(report_of(error),
              fmt::format("the sum is 2 (internal error at tests/support/error_test.cc:{}; please "
                          "report it)",
                          line));
  }
}

TEST(Error, ReportsAnyOtherFailureAsItIs) {
  EXPECT_EQ(report_of(Error(ErrorCode::kNotFound, "no file x")), "no file x");
  EXPECT_EQ(report_of(Error(ErrorCode::kUnavailable, "the disk is full")), "the disk is full");
}

}  // namespace
}  // namespace flux
