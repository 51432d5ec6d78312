#pragma once

#include "ops/cuda/kernels/device.cuh"
#include "ops/cuda/kernels/hopper.cuh"
#include "ops/cuda/kernels/kernels.h"

/// What the parts of hopper_linear.cu share: shapes of tiles, arguments, and where a tile is.
namespace flux::cuda::hopper::linear {

constexpr int kDepth = 64;      // of a stage
constexpr int kRowBytes = 128;  // of a stage
constexpr int kHeadDim = 128;   // of heads that are normalised

/// Where the tiles of a cluster's blocks are: two side by side, which share rows of x; two below
/// one another, which share columns of weights; four of both kinds; or two side by side that are
/// the upper or lower half of such four.
enum class Cluster { kAside, kBelow, kFour, kHalfOfFour };

/// The shape of a tile, of kGroups warpgroups of 64 rows, and of what a cluster does at a time.
template <int kGroups_, int kColumns_, int kStages_, Cluster kCluster_>
struct TileShape {
  static constexpr int kGroups = kGroups_;
  static constexpr int kRows = kGroups * 64;
  static constexpr int kColumns = kColumns_;
  static constexpr int kStages = kStages_;
  static constexpr int kTilesAside = kCluster_ == Cluster::kBelow ? 1 : 2;  // of a cluster
  static constexpr int kTilesBelow =
      kCluster_ == Cluster::kBelow || kCluster_ == Cluster::kFour ? 2 : 1;
  static constexpr int kBlocks = kTilesAside * kTilesBelow;
  /// Of several clusters, what is counted as one work: in halves, the four.
  static constexpr int kHalves = kCluster_ == Cluster::kHalfOfFour ? 2 : 1;
  static constexpr int kWorkRows = kRows * kTilesBelow * kHalves;
  static constexpr int kWorkColumns = kColumns * kTilesAside;
  /// Whether the columns of a block, or of a cluster, are whole heads.
  static constexpr bool kWholeHeads = kColumns % kHeadDim == 0;
  static constexpr bool kHasHeads = kWorkColumns % kHeadDim == 0;
  static constexpr int kCopiedRows = kRows / kTilesAside;  // by a block
  static constexpr int kCopiedColumns = kColumns / kTilesBelow;
  static constexpr int kCopiers = kTilesAside + kTilesBelow - 1;  // blocks that copy to a block
  static constexpr int kThreads = (1 + kGroups) * 128;
  static constexpr int kXBytes = kRows * kRowBytes;
  static constexpr int kWBytes = kColumns * kRowBytes;
  static constexpr int kSums = kColumns / 2;                   // of a thread
  static constexpr int kRegisters = kGroups == 3 ? 160 : 232;  // of a multiplying thread
  static constexpr int kCopyingRegisters = kGroups == 3 ? 32 : 40;
  using Half = TileShape<kGroups, kColumns, kStages, Cluster::kHalfOfFour>;

  /// A tile of some of the columns.
  template <int kPieces>
  using Piece = TileShape<kGroups, kColumns / kPieces, kStages, kCluster_>;
};

/// A block's place in its cluster.
template <typename Shape>
struct Rank {
  int rank = static_cast<int>(cluster_rank());

  __device__ int below() const { return Shape::kTilesBelow == 1 ? 0 : rank / Shape::kTilesAside; }
  __device__ int aside() const {
    return Shape::kTilesAside == 1 ? 0 : Shape::kTilesBelow == 1 ? rank : rank % 2;
  }
  /// The blocks that share its rows, or its columns, each a bit.
  __device__ uint16_t row_mask() const { return static_cast<uint16_t>(3 << (below() * 2)); }
  __device__ uint16_t column_mask() const {
    return static_cast<uint16_t>(Shape::kBlocks == 4 ? 5 << aside() : 3);
  }
  /// The i-th of the blocks that copy to it; of four, the one across does not.
  __device__ uint32_t copier(uint32_t i) const {
    return Shape::kBlocks == 4 ? static_cast<uint32_t>(rank) ^ i : i;
  }
  /// The block aside of it, or itself.
  __device__ uint32_t at_aside(uint32_t aside) const {
    return Shape::kBlocks == 4 ? static_cast<uint32_t>(below() * 2) + aside : aside;
  }
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
  int row_turns;     // works down the rows
  int band;          // of them before the next columns
  int column_turns;  // along the columns
  int first_work;
};

struct Args {
  Part parts[kMaxLinearParts];
  int count;
  int whole;   // works of whole tiles
  int pieces;  // in which each of the works that follow is computed
  int works;   // in pieces or not
  int columns;
  int queries;  // columns that are queries, the first ones, where there is a norm
  int normed;   // and those that are queries or keys
  int chunks;   // stages of a tile
  int skipped;  // works before these
};

/// A block's tile, or piece of one.
struct Place {
  const Part* part;
  int row, column;
  int columns;  // fewer than the shape's in a piece

  template <typename Shape>
  __device__ static Place of(const Args& args, int work, Shape) {
    int columns = Shape::kColumns;
    int before = 0;
    if (work >= args.whole) {
      columns /= args.pieces;
      before = (work - args.whole) % args.pieces * columns;
      work = args.whole + (work - args.whole) / args.pieces;
    }
    int half = 0;
    if constexpr (Shape::kHalves == 2) {
      half = work % 2;
      work /= 2;
    }
    if constexpr (Shape::kBlocks == 4) work += args.skipped;
    int index = 0;
    while (index + 1 < args.count && work >= args.parts[index + 1].first_work) ++index;
    const Part& part = args.parts[index];
    const int own = work - part.first_work;
    // Down the rows of a band, then along the columns: what runs at a time is about square, so that
    // it reads little, and what a band has of x stays in the L2 cache.
    const int first = own / (part.band * part.column_turns) * part.band;
    const int in_band = own - first * part.column_turns;
    const int rows = min(part.band, part.row_turns - first);
    const Rank<Shape> rank;
    const int below = Shape::kHalves == 2 ? half : rank.below();
    const int row = (first + in_band % rows) * (Shape::kTilesBelow * Shape::kHalves) + below;
    const int column = in_band / rows * Shape::kTilesAside + rank.aside();
    return {&part, row * Shape::kRows, column * Shape::kColumns + before, columns};
  }
};

}  // namespace flux::cuda::hopper::linear
