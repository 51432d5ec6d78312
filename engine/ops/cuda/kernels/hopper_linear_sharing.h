#pragma once

#include <algorithm>
#include <cstdint>

/// How hopper_linear.cu shares out the tiles of a linear. What a cluster of blocks computes at a
/// time is a work: a tile for each of its blocks.
namespace flux::cuda::hopper::linear {

/// In how many pieces tiles of a last turn may be computed, some or more; 1: not at all.
struct Pieces {
  int some, more;
};

/// The clusters that run at a time: of the kind that the tiles are for; and, beside clusters of
/// four blocks, as many of two on the multiprocessors that are left.
struct Clusters {
  int count;
  int halves = 0;

  double capacity() const { return count + 0.5 * halves; }  // works in a turn
};

struct Sharing {
  int by_halves;  // works for the clusters of two beside those of four, the first ones
  int whole;      // of the others, works that are not in pieces
  int pieces;     // in which each work that then follows is computed
  double turns;   // of a work for each cluster
};

inline int divide_up(int64_t size, int tile) { return static_cast<int>((size + tile - 1) / tile); }

/// In turns; works that do not fill the last one are computed in as many pieces as do not exceed
/// it.
inline Sharing share_out(int works, const Clusters& clusters, const Pieces& allowed) {
  Sharing sharing{};
  int halves_turns = static_cast<int>(works / clusters.capacity());
  if (works - halves_turns * clusters.capacity() > clusters.count) ++halves_turns;
  sharing.by_halves = halves_turns * clusters.halves / 2;
  const int others = works - sharing.by_halves;
  const int rest = others % clusters.count;
  sharing.whole = others;
  sharing.pieces = 1;
  sharing.turns = divide_up(others, clusters.count);
  for (const int pieces : {allowed.some, allowed.more}) {
    if (pieces == 1 || rest == 0 || rest * pieces > clusters.count) continue;
    constexpr double kLost = 0.1;  // narrow tiles read more for each product
    sharing.whole = others - rest;
    sharing.pieces = pieces;
    sharing.turns = others / clusters.count + 1.0 / pieces + kLost;
  }
  return sharing;
}

/// How many works below one another are computed before the next columns: of about 2304 rows, which
/// the L2 cache keeps, in bands that are alike.
inline int band_of(int row_turns, int rows) {
  const int most = std::max(1, 2304 / rows);
  return divide_up(row_turns, divide_up(row_turns, most));
}

}  // namespace flux::cuda::hopper::linear
