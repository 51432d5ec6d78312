#pragma once

#include <algorithm>
#include <cstdint>

/// How hopper_linear.cu shares out the pairs of tiles of a linear among clusters of two blocks.
namespace flux::cuda::hopper::linear {

/// In how many pieces tiles of a last turn may be computed, some or more; 1: not at all.
struct Pieces {
  int some, more;
};

struct Sharing {
  int whole;     // pairs that are not in pieces
  int pieces;    // in which each pair that then follows is computed
  double turns;  // of a whole pair for each cluster
};

inline int divide_up(int64_t size, int tile) { return static_cast<int>((size + tile - 1) / tile); }

/// In turns; pairs that do not fill the last one are computed in as many pieces as do not exceed
/// it.
inline Sharing share_out(int pairs, int clusters, const Pieces& allowed) {
  const int rest = pairs % clusters;
  Sharing sharing{pairs, 1, static_cast<double>(divide_up(pairs, clusters))};
  for (const int pieces : {allowed.some, allowed.more}) {
    if (pieces == 1 || rest == 0 || rest * pieces > clusters) continue;
    constexpr double kLost = 0.1;  // narrow tiles read more for each product
    sharing = {pairs - rest, pieces, pairs / clusters + 1.0 / pieces + kLost};
  }
  return sharing;
}

/// How many pairs below one another are computed before the next columns: of about 2304 rows, which
/// the L2 cache keeps, in bands that are alike.
inline int band_of(int row_turns, int rows) {
  const int most = std::max(1, 2304 / rows);
  return divide_up(row_turns, divide_up(row_turns, most));
}

}  // namespace flux::cuda::hopper::linear
