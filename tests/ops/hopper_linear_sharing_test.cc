#include "ops/cuda/kernels/hopper_linear_sharing.h"

#include <gtest/gtest.h>

namespace flux::cuda::hopper::linear {
namespace {

TEST(HopperLinearSharing, AllIsSharedOutAndNoTurnIsWasted) {
  for (const Clusters& clusters : {Clusters{66}, Clusters{57}, Clusters{1}, Clusters{30, 6},
                                   Clusters{32, 2}, Clusters{33, 0}, Clusters{29, 7}}) {
    for (const Pieces& allowed : {Pieces{1, 1}, Pieces{2, 1}, Pieces{2, 3}, Pieces{2, 4}}) {
      for (int works = 1; works < 1000; ++works) {
        const Sharing sharing = share_out(works, clusters, allowed);
        const auto what = testing::Message() << works << " works, " << clusters.count << " and "
                                             << clusters.halves << " clusters";
        const int in_pieces = works - sharing.by_halves - sharing.whole;
        ASSERT_GE(sharing.by_halves, 0) << what;
        ASSERT_GE(in_pieces, 0) << what;
        if (sharing.pieces > 1) {
          ASSERT_TRUE(sharing.pieces == allowed.some || sharing.pieces == allowed.more) << what;
          ASSERT_EQ(sharing.whole % clusters.count, 0) << what;
          ASSERT_LE(in_pieces * sharing.pieces, clusters.count) << what;
        } else {
          ASSERT_EQ(in_pieces, 0) << what;
        }
        ASSERT_GE(sharing.turns, works / clusters.capacity() - 1e-9) << what;
        ASSERT_LE(sharing.turns, works / clusters.capacity() + 1 + 1e-9) << what;
        // Clusters of two beside those of four are not done later.
        if (clusters.halves > 0) {
          ASSERT_LE(2.0 * sharing.by_halves / clusters.halves, sharing.turns + 0.5) << what;
        }
      }
    }
  }
}

TEST(HopperLinearSharing, LastTurnInPieces) {
  // FLUX.1's double blocks at 1024x1024: 18 x 48 pairs of tiles of 128x256.
  const Sharing pairs = share_out(864, {66}, {2, 4});
  EXPECT_EQ(pairs.whole, 858);
  EXPECT_EQ(pairs.pieces, 4);
  EXPECT_LT(pairs.turns, 13.5);
  const Sharing fours = share_out(432, {30, 6}, {2, 4});
  EXPECT_EQ(fours.by_halves, 39);
  EXPECT_EQ(fours.whole, 390);
  EXPECT_EQ(fours.pieces, 4);
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
