#include "ops/cuda/kernels/hopper_linear_plan.h"

#include <gtest/gtest.h>

#include <vector>

namespace flux::cuda::hopper::linear {
namespace {

constexpr GpuTraits kH100 = make_gpu_traits(kTunedGpu, true);
constexpr GpuTraits kH200 =
    make_gpu_traits({9, 0, 132, 1'980'000, 3'201'000, 6144, int64_t{60} << 20}, true);
/// H100 PCIe, 350 W.
constexpr GpuTraits kPcie =
    make_gpu_traits({9, 0, 114, 1'755'000, 1'593'000, 5120, int64_t{50} << 20}, true);

TEST(HopperLinearPlan, EveryPairIsComputedAndNoWaveIsWasted) {
  for (const int clusters : {66, 57, 1}) {
    for (const SplitFactors& allowed :
         {SplitFactors{1, 1}, SplitFactors{2, 1}, SplitFactors{2, 3}, SplitFactors{2, 4}}) {
      for (int pairs = 1; pairs < 1000; ++pairs) {
        const WaveSplit waves = split_waves(pairs, clusters, allowed);
        const auto what = testing::Message() << pairs << " pairs, " << clusters << " clusters";
        const int split_pairs = pairs - waves.whole;
        ASSERT_GE(split_pairs, 0) << what;
        if (waves.split > 1) {
          ASSERT_TRUE(waves.split == allowed.some || waves.split == allowed.more) << what;
          ASSERT_EQ(waves.whole % clusters, 0) << what;
          ASSERT_LE(split_pairs * waves.split, clusters) << what;
        } else {
          ASSERT_EQ(split_pairs, 0) << what;
        }
        ASSERT_GE(waves.waves, static_cast<double>(pairs) / clusters - 1e-9) << what;
        ASSERT_LE(waves.waves, static_cast<double>(pairs) / clusters + 1 + 1e-9) << what;
      }
    }
  }
}

TEST(HopperLinearPlan, PartialLastWaveIsSplit) {
  // FLUX.1's double blocks at 1024x1024: 18 x 48 pairs of tiles of 128x256.
  const WaveSplit waves = split_waves(864, 66, {2, 4});
  EXPECT_EQ(waves.whole, 858);
  EXPECT_EQ(waves.split, 4);
  EXPECT_LT(waves.waves, 13.5);
}

TEST(HopperLinearPlan, BandsAreAlike) {
  EXPECT_EQ(band_of(18, 256, kH100), 9);
  EXPECT_EQ(band_of(16, 256, kH100), 8);
  EXPECT_EQ(band_of(24, 192, kH100), 12);
  EXPECT_EQ(band_of(1, 384, kH100), 1);
  EXPECT_EQ(band_of(5, 4096, kH100), 1);
  EXPECT_EQ(band_of(18, 256, kPcie), 9);
  EXPECT_EQ(band_of(18, 256, kH200), 9);
  EXPECT_EQ(band_of(20, 256, kH200), 10);  // 7 on the smaller cache
}

/// The plan with the figures that were measured on an H100, written out as numbers.
struct Measured {
  struct Tile {
    int rows, columns;  // of a cluster
    double cost, norm_cost;
    bool can_norm;
    SplitFactors split, norm_split;
  };
  static constexpr Tile kTiles[] = {{192, 384, 1.0, 1.0 * 1.12, true, {2, 3}, {1, 1}},
                                    {384, 192, 1.0, 1.0 * 1.12, false, {2, 3}, {1, 1}},
                                    {256, 256, 1.02, 1.02 * 1.05, true, {2, 4}, {2, 1}},
                                    {256, 192, 1.05, 1.05 * 1.12, false, {2, 3}, {1, 1}},
                                    {256, 128, 1.18, 1.18 * 1.05, true, {2, 1}, {1, 1}}};

  static double elements(const LinearSizes& linear, const Tile& tile) {
    const bool norm = linear.norm_columns > 0;
    int pairs = 0;
    for (const int64_t rows : linear.rows) {
      pairs += static_cast<int>((rows + tile.rows - 1) / tile.rows) *
               static_cast<int>((linear.columns + tile.columns - 1) / tile.columns);
    }
    const WaveSplit waves = split_waves(pairs, 66, norm ? tile.norm_split : tile.split);
    const double time = 0.75 * waves.waves + 0.25 * static_cast<double>(pairs) / 66;
    return (norm ? tile.norm_cost : tile.cost) * time * tile.rows * tile.columns;
  }

  static int best_tile(const LinearSizes& linear) {
    int best = -1;
    for (int i = 0; i < 5; ++i) {
      if (linear.norm_columns > 0 && !kTiles[i].can_norm) continue;
      if (best < 0 || elements(linear, kTiles[i]) < elements(linear, kTiles[best])) best = i;
    }
    return best;
  }

  static bool is_faster(const LinearSizes& linear) {
    const double library_speed = linear.depth > 8192 ? 700e12 : 650e12;
    const auto width = static_cast<double>(linear.columns);
    const auto depth = static_cast<double>(linear.depth);
    double library = 0;
    for (const int64_t rows : linear.rows) {
      const auto count = static_cast<double>(rows);
      library += 2.0 * (count + 64) * width * depth / library_speed;
      if (linear.residual) library += 6.0 * count * width / 2.5e12;
      if (linear.norm_columns > 0) library += 8.0 / 3 * count * width / 2.5e12;
    }
    const double operations = 2.0 * elements(linear, kTiles[best_tile(linear)]) * 66 * depth;
    return operations / 690e12 < library;
  }

  static int band_of(int pairs_down, int rows) {
    const int most = std::max(1, 2304 / rows);
    const int bands = (pairs_down + most - 1) / most;
    return (pairs_down + bands - 1) / bands;
  }
};

/// Shapes of FLUX.1's linears at many image sizes, and others.
template <typename F>
void for_each_linear(const F& f) {
  struct Shape {
    int64_t columns, depth;
    bool residual, norm;
  };
  constexpr Shape kShapes[] = {
      {9216, 3072, false, true},   {9216, 3072, false, false},  {12288, 3072, false, false},
      {3072, 3072, true, false},   {3072, 12288, true, false},  {3072, 15360, true, false},
      {21504, 3072, false, false}, {3072, 64, false, false},    {64, 3072, false, false},
      {1152, 456, false, true},    {1000, 456, true, false},    {384, 64, false, true},
      {3072, 4096, false, false},  {18432, 3072, false, false}, {8, 8, true, false},
      {576, 3072, false, false}};
  for (const Shape& shape : kShapes) {
    for (int64_t image = 1; image < 9000; image += image < 300 ? 7 : 61) {
      for (const std::vector<int64_t>& rows :
           {std::vector<int64_t>{image}, {512, image}, {512, image, 512, 4096}, {77, image, 300}}) {
        f(LinearSizes{rows, shape.columns, shape.depth, shape.norm ? shape.columns / 3 * 2 : 0,
                      shape.residual});
      }
    }
  }
}

TEST(HopperLinearPlan, OnTheTunedGpuChoicesAreThoseOfTheMeasuredFigures) {
  int faster = 0;
  int slower = 0;
  std::vector<int> chosen(std::size(kTileShapes));
  for_each_linear([&](const LinearSizes& linear) {
    const auto what = [&] {
      return testing::Message() << linear.rows.back() << " rows, " << linear.columns << " x "
                                << linear.depth;
    };
    const int tile = best_tile(linear, kH100);
    ASSERT_EQ(tile, Measured::best_tile(linear)) << what();
    ASSERT_EQ(is_faster_than_library(linear, kH100), Measured::is_faster(linear)) << what();
    ++(Measured::is_faster(linear) ? faster : slower);
    ++chosen[static_cast<size_t>(tile)];
  });
  EXPECT_GT(faster, 1000);
  EXPECT_GT(slower, 1000);
  // Every shape is the best for some linears.
  for (size_t i = 0; i < chosen.size(); ++i) EXPECT_GT(chosen[i], 0) << "shape " << i;
  for (int pairs = 1; pairs < 200; ++pairs) {
    for (const TileShapeFigures& tile : kTileShapes) {
      const int rows = tile.cluster_rows();
      ASSERT_EQ(band_of(pairs, rows, kH100), Measured::band_of(pairs, rows)) << pairs;
    }
  }
}

TEST(HopperLinearPlan, OtherGpusHaveChoicesOfTheirOwn) {
  int more_memory = 0;  // faster passes: more linears are left to cuBLASLt
  int fewer = 0;
  int tiles = 0;
  for_each_linear([&](const LinearSizes& linear) {
    const bool tuned = is_faster_than_library(linear, kH100);
    more_memory += tuned && !is_faster_than_library(linear, kH200);
    fewer += !tuned && is_faster_than_library(linear, kH200);
    // The same multiprocessors have the same waves.
    ASSERT_EQ(best_tile(linear, kH200), best_tile(linear, kH100));
    tiles += best_tile(linear, kPcie) != best_tile(linear, kH100);
  });
  EXPECT_GT(more_memory, 10);
  EXPECT_EQ(fewer, 0);
  EXPECT_GT(tiles, 100);
}

}  // namespace
}  // namespace flux::cuda::hopper::linear
