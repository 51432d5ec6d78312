#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <limits>
#include <span>

#include "ops/cuda/kernels/gpu_traits.h"

/// The plan of hopper_linear.cu for a linear: which shape of tile, in which waves, and whether
/// cuBLASLt would be faster. Plain host code; see tests/ops/hopper_linear_plan_test.cc.
namespace flux::cuda::hopper::linear {

constexpr int kCluster = 2;    // blocks
constexpr int kHeadDim = 128;  // of heads that are normalised

inline int divide_up(int64_t size, int tile) { return static_cast<int>((size + tile - 1) / tile); }

/// Clusters that run at a time.
inline int clusters_of(const GpuTraits& gpu) { return std::max(1, gpu.multiprocessors / kCluster); }

/// The axis of the product along which the two tiles of a cluster lie: side by side along the
/// columns they read the same rows of x, below one another the same rows of the weights.
enum class ClusterAxis { kColumns, kRows };

/// Split-N factors that the tiles of a partial last wave may take, in rising order; 1: not split.
struct SplitFactors {
  int some, more;
};
/// Norms need whole heads.
constexpr SplitFactors split_factors(int tile_columns, bool norm) {
  if (norm) return {tile_columns == 2 * kHeadDim ? 2 : 1, 1};
  return {2, tile_columns > 128 ? tile_columns / 64 : 1};
}

/// A shape of tile, and what it costs.
struct TileShapeFigures {
  int groups;  // warpgroup tiles of 64 rows, below one another
  int columns;
  int stages;
  ClusterAxis axis;
  double cost;   // time for an element of the result, relative to the best shape
  bool changes;  // whether it is compiled for changes of the weights, too

  constexpr int cluster_rows() const {
    return groups * 64 * (axis == ClusterAxis::kRows ? kCluster : 1);
  }
  constexpr int cluster_columns() const {
    return columns * (axis == ClusterAxis::kColumns ? kCluster : 1);
  }
  /// Whether a block, or only a cluster, has whole heads.
  constexpr bool has_whole_heads() const { return columns % kHeadDim == 0; }
  constexpr bool can_norm() const { return cluster_columns() % kHeadDim == 0; }
  /// The exchange of a head that two blocks share costs more.
  constexpr double norm_cost() const { return cost * (has_whole_heads() ? 1.05 : 1.12); }
};
inline constexpr TileShapeFigures kTileShapes[] = {{3, 192, 4, ClusterAxis::kColumns, 1.0, false},
                                                   {3, 192, 4, ClusterAxis::kRows, 1.0, true},
                                                   {2, 256, 4, ClusterAxis::kRows, 1.02, true},
                                                   {2, 192, 5, ClusterAxis::kRows, 1.05, false},
                                                   {2, 128, 6, ClusterAxis::kRows, 1.18, true}};

/// How many clusters' pairs of tiles are computed whole, and how the others are.
struct WaveSplit {
  int whole;     // pairs that are not split
  int split;     // split-N factor of the pairs that follow
  double waves;  // time of all, in waves of whole pairs
};

/// Pairs run in waves of one for each cluster; those of a partial last wave are split along N as
/// far as the wave has clusters for.
inline WaveSplit split_waves(int pairs, int clusters, const SplitFactors& allowed) {
  const int rest = pairs % clusters;
  WaveSplit waves{pairs, 1, static_cast<double>(divide_up(pairs, clusters))};
  for (const int split : {allowed.some, allowed.more}) {
    if (split == 1 || rest == 0 || rest * split > clusters) continue;
    constexpr double kLost = 0.1;  // narrow tiles read more for each product
    waves = {pairs - rest, split, pairs / clusters + 1.0 / split + kLost};
  }
  return waves;
}

/// How many pairs below one another are computed before the next columns: bands of like height, of
/// at most band_rows() where a pair has `rows`.
inline int band_of(int pairs_down, int rows, const GpuTraits& gpu) {
  const int most = std::max(1, static_cast<int>(band_rows(gpu) / rows));
  return divide_up(pairs_down, divide_up(pairs_down, most));
}

/// The sizes of a linear that decide about its plan.
struct LinearSizes {
  std::span<const int64_t> rows;  // of each segment
  int64_t columns;
  int64_t depth;
  int64_t norm_columns;  // those of queries and keys that are normalised, or 0
  bool residual;
  bool changes = false;  // of the weights, for some segments
};

/// What the tiles take, in elements of the result that a cluster computes one after the other.
/// While some clusters idle in the last wave the others run faster: the GPU is at its power limit.
inline double elements(const LinearSizes& linear, const TileShapeFigures& tile,
                       const GpuTraits& gpu) {
  const int clusters = clusters_of(gpu);
  const bool norm = linear.norm_columns > 0;
  int pairs = 0;
  for (const int64_t rows : linear.rows) {
    pairs +=
        divide_up(rows, tile.cluster_rows()) * divide_up(linear.columns, tile.cluster_columns());
  }
  const WaveSplit split = split_waves(pairs, clusters, split_factors(tile.columns, norm));
  const double waves = 0.75 * split.waves + 0.25 * static_cast<double>(pairs) / clusters;
  return (norm ? tile.norm_cost() : tile.cost) * waves * tile.cluster_rows() *
         tile.cluster_columns();
}

/// The index of the fastest shape of tile that can compute the linear.
inline int best_tile(const LinearSizes& linear, const GpuTraits& gpu) {
  const auto cost = [&](const TileShapeFigures& tile) {
    const bool can =
        (tile.can_norm() || linear.norm_columns == 0) && (tile.changes || !linear.changes);
    return can ? elements(linear, tile, gpu) : std::numeric_limits<double>::infinity();
  };
  const auto* const best = std::min_element(
      std::begin(kTileShapes), std::end(kTileShapes),
      [&](const TileShapeFigures& a, const TileShapeFigures& b) { return cost(a) < cost(b); });
  return static_cast<int>(best - std::begin(kTileShapes));
}

/// Whether hopper_linear(), which fuses gates and norms and computes all segments at once, is
/// faster than cuBLASLt with a product for each segment and passes for gates and norms.
inline bool is_faster_than_library(const LinearSizes& linear, const GpuTraits& gpu) {
  const LinearRates rates = linear_rates(gpu, linear.depth);
  constexpr int64_t kLostRows = 64;  // of the library's last tiles of a segment
  const auto width = static_cast<double>(linear.columns);
  const auto depth = static_cast<double>(linear.depth);
  double library = 0;
  for (const int64_t rows : linear.rows) {
    library += 2.0 * static_cast<double>(rows + kLostRows) * width * depth / rates.library;
    if (linear.residual) library += 6.0 * static_cast<double>(rows) * width / rates.passes;
    library +=
        4.0 * static_cast<double>(rows) * static_cast<double>(linear.norm_columns) / rates.passes;
  }
  const TileShapeFigures& tile = kTileShapes[best_tile(linear, gpu)];
  return 2.0 * elements(linear, tile, gpu) * clusters_of(gpu) * depth / rates.own < library;
}

}  // namespace flux::cuda::hopper::linear
