#include "triton/cancel_scope.h"

#include <gtest/gtest.h>

#include "ops/registry.h"
#include "support/error.h"

namespace flux::triton {
namespace {

TEST(CancelScope, ChecksWhileItLives) {
  Context ctx(backend_for(Device{}), 1);
  bool cancelled = false;
  {
    const CancelScope scope(ctx, [&] { return cancelled; });
    EXPECT_NO_THROW(ctx.poll_cancel());
    cancelled = true;
    EXPECT_THROW(ctx.poll_cancel(), Error);
  }
  EXPECT_NO_THROW(ctx.poll_cancel());
}

TEST(CancelScope, EndsWithAnException) {
  Context ctx(backend_for(Device{}), 1);
  EXPECT_THROW(
      {
        const CancelScope scope(ctx, [] { return true; });
        ctx.poll_cancel();
      },
      Error);
  EXPECT_NO_THROW(ctx.poll_cancel());
}

}  // namespace
}  // namespace flux::triton
