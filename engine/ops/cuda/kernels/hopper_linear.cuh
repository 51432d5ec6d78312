#pragma once

#include "ops/cuda/kernels/device.cuh"
#include "ops/cuda/kernels/hopper.cuh"
#include "ops/cuda/kernels/kernels.h"

/// What the parts of hopper_linear.cu share: shapes of tiles, arguments, and where a tile is.
namespace flux::cuda::hopper::linear {

constexpr int kDepth = 64;      // of a stage
constexpr int kRowBytes = 128;  // of a stage
constexpr int kCluster = 2;     // blocks
constexpr int kHeadDim = 128;   // of heads that are normalised

/// What the two blocks of a cluster share: their tiles are side by side, or below one another.
enum class Shared { kRows, kColumns };

/// The shape of a tile: kGroups warpgroups of 64 rows.
template <int kGroups_, int kColumns_, int kStages_, Shared kShared_>
struct TileShape {
  static constexpr int kGroups = kGroups_;
  static constexpr int kRows = kGroups * 64;
  static constexpr int kColumns = kColumns_;
  static constexpr int kStages = kStages_;
  static constexpr bool kSharesRows = kShared_ == Shared::kRows;
  static constexpr int kTilesAside = kSharesRows ? kCluster : 1;  // of a cluster
  static constexpr int kTilesBelow = kSharesRows ? 1 : kCluster;
  /// Whether the columns of a block, or of a cluster, are whole heads.
  static constexpr bool kWholeHeads = kColumns % kHeadDim == 0;
  static constexpr bool kHasHeads = kColumns * kTilesAside % kHeadDim == 0;
  static constexpr int kCopiedRows = kSharesRows ? kRows / kCluster : kRows;  // by a block
  static constexpr int kCopiedColumns = kSharesRows ? kColumns : kColumns / kCluster;
  static constexpr int kThreads = (1 + kGroups) * 128;
  static constexpr int kXBytes = kRows * kRowBytes;
  static constexpr int kWBytes = kColumns * kRowBytes;
  static constexpr int kSums = kColumns / 2;                   // of a thread
  static constexpr int kRegisters = kGroups == 3 ? 160 : 232;  // of a multiplying thread
  static constexpr int kCopyingRegisters = kGroups == 3 ? 32 : 40;

  /// A tile of some of the columns.
  template <int kPieces>
  using Piece = TileShape<kGroups, kColumns / kPieces, kStages, kShared_>;
};

template <typename Shape>
struct Tiles {
  unsigned char x[Shape::kStages][Shape::kXBytes];
  unsigned char w[Shape::kStages][Shape::kWBytes];
  alignas(16) float bias[Shape::kColumns];  // of the tile, as gate
  alignas(16) float gate[Shape::kColumns];  // of heads the weights of their norm
  /// Of a head that is half in the other block, the sums of squares there: every other tile has the
  /// same place.
  float squares[2][Shape::kRows];
  uint64_t full[Shape::kStages], empty[Shape::kStages];
  uint64_t columns_full, columns_empty;
  uint64_t squares_full[2];
};

struct Part {
  CUtensorMap x;
  CUtensorMap w[2];  // for whole tiles and for pieces
  bf16* out;
  int64_t out_stride;
  const float* bias;  // null where left out, as gate
  const float* gate;
  const bf16* residual;
  int64_t residual_stride;
  HopperLinear::Norm norm;
  int rows;
  int row_turns;     // of a cluster, down the rows
  int band;          // of them before the next columns
  int column_turns;  // along the columns
  int first_work;
};

struct Args {
  Part parts[kMaxLinearParts];
  int count;
  int whole;   // pairs of whole tiles
  int pieces;  // each of the pairs that follow is computed in
  int works;   // pairs, in pieces or not
  int columns;
  int queries;   // columns that are queries, the first ones, where there is a norm
  int normed;    // and those that are queries or keys
  int chunks;    // stages of a tile
  bool keeps_x;  // in the L2 cache, rather than weights
};

/// A block's tile, or piece of one.
struct Place {
  int part;
  int row, column;
  int columns;  // fewer than the shape's in a piece

  template <typename Shape>
  __device__ static Place of(const Args& args, int work, Shape) {
    int columns = Shape::kColumns;
    int skipped = 0;
    if (work >= args.whole) {
      columns /= args.pieces;
      skipped = (work - args.whole) % args.pieces * columns;
      work = args.whole + (work - args.whole) / args.pieces;
    }
    int index = 0;
    while (index + 1 < args.count && work >= args.parts[index + 1].first_work) ++index;
    const Part& part = args.parts[index];
    const int own = work - part.first_work;
    // Down the rows of a band, then along the columns: what runs at a time is about square, so that
    // it reads little, and what a band has of x stays in the L2 cache.
    const int first = own / (part.band * part.column_turns) * part.band;
    const int in_band = own - first * part.column_turns;
    const int rows = min(part.band, part.row_turns - first);
    const auto rank = static_cast<int>(cluster_rank());
    const int row = (first + in_band % rows) * Shape::kTilesBelow + (Shape::kSharesRows ? 0 : rank);
    const int column = in_band / rows * Shape::kTilesAside + (Shape::kSharesRows ? rank : 0);
    return {index, row * Shape::kRows, column * Shape::kColumns + skipped, columns};
  }
};

}  // namespace flux::cuda::hopper::linear
