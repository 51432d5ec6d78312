#include "ops/cuda/kernels/hopper_linear_sharing.h"

#include <gtest/gtest.h>

namespace flux::cuda::hopper::linear {
namespace {

TEST(HopperLinearSharing, AllIsSharedOutAndNoTurnIsWasted) {
  for (const int clusters : {66, 57, 1}) {
    for (const Pieces& allowed : {Pieces{1, 1}, Pieces{2, 1}, Pieces{2, 3}, Pieces{2, 4}}) {
      for (int pairs = 1; pairs < 1000; ++pairs) {
        const Sharing sharing = share_out(pairs, clusters, allowed);
        const auto what = testing::Message() << pairs << " pairs, " << clusters << " clusters";
        const int in_pieces = pairs - sharing.whole;
        ASSERT_GE(in_pieces, 0) << what;
        if (sharing.pieces > 1) {
          ASSERT_TRUE(sharing.pieces == allowed.some || sharing.pieces == allowed.more) << what;
          ASSERT_EQ(sharing.whole % clusters, 0) << what;
          ASSERT_LE(in_pieces * sharing.pieces, clusters) << what;
        } else {
          ASSERT_EQ(in_pieces, 0) << what;
        }
        ASSERT_GE(sharing.turns, static_cast<double>(pairs) / clusters - 1e-9) << what;
        ASSERT_LE(sharing.turns, static_cast<double>(pairs) / clusters + 1 + 1e-9) << what;
      }
    }
  }
}

TEST(HopperLinearSharing, LastTurnInPieces) {
  // FLUX.1's double blocks at 1024x1024: 18 x 48 pairs of tiles of 128x256.
  const Sharing pairs = share_out(864, 66, {2, 4});
  EXPECT_EQ(pairs.whole, 858);
  EXPECT_EQ(pairs.pieces, 4);
  EXPECT_LT(pairs.turns, 13.5);
}

TEST(HopperLinearSharing, BandsAreAlike) {
  EXPECT_EQ(band_of(18, 256), 9);
  EXPECT_EQ(band_of(16, 256), 8);
  EXPECT_EQ(band_of(24, 192), 12);
  EXPECT_EQ(band_of(1, 384), 1);
  EXPECT_EQ(band_of(5, 4096), 1);
}

}  // namespace
}  // namespace flux::cuda::hopper::linear
