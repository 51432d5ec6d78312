#pragma once

#include <type_traits>

#include "ops/cuda/kernels/device.cuh"
#include "ops/cuda/kernels/hopper.cuh"
#include "ops/cuda/kernels/hopper_linear_plan.h"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/kernels/tensor_map.h"

/// Types that the files of hopper_linear.cu have in common: shapes of tiles, shared memory, kernel
/// arguments, and the coordinates of a tile.
namespace flux::cuda::hopper::linear {

constexpr int kRowBytes = 128;  // of a stage

/// What is multiplied.
struct Bf16Operands {
  static constexpr MapElement kElement = MapElement::kBf16;
  static constexpr int kDepth = kRowBytes / 2;  // of a stage

  template <int kSums>
  __device__ static void multiply(float (&sums)[kSums], Descriptor x, Descriptor w) {
    product(sums, x, w, true);
  }
};
/// Values are the numbers times the scales of their rows. The tensor cores add products of e4m3
/// with some 14 bits, which is little beside the 4 bits of the numbers.
struct E4M3Operands {
  static constexpr MapElement kElement = MapElement::kByte;
  static constexpr int kDepth = kRowBytes;

  template <int kSums>
  __device__ static void multiply(float (&sums)[kSums], Descriptor x, Descriptor w) {
    product_e4m3(sums, x, w, true);
  }
};

/// The shape of a block's tile: kGroups warpgroup tiles of 64 rows. kChanges_: whether the kernel
/// computes HopperLinear::Changes.
template <typename Operands_, int kGroups_, int kColumns_, int kStages_, ClusterAxis kAxis,
          bool kChanges_>
struct TileShape {
  using Operands = Operands_;
  static constexpr bool kChanges = kChanges_;
  static constexpr bool kScaled = std::is_same_v<Operands, E4M3Operands>;
  static constexpr int kGroups = kGroups_;
  static constexpr int kRows = kGroups * 64;
  static constexpr int kColumns = kColumns_;
  static constexpr int kStages = kStages_;
  static constexpr bool kSharesRows = kAxis == ClusterAxis::kColumns;  // of x, in the cluster
  static constexpr int kTilesAside = kSharesRows ? kCluster : 1;       // of a cluster
  static constexpr int kTilesBelow = kSharesRows ? 1 : kCluster;
  /// Whether the columns of a block are whole heads.
  static constexpr bool kWholeHeads = kColumns % kHeadDim == 0;
  static constexpr int kCopiedRows = kSharesRows ? kRows / kCluster : kRows;  // by a block
  static constexpr int kCopiedColumns = kSharesRows ? kColumns : kColumns / kCluster;
  static constexpr int kThreads = (1 + kGroups) * 128;
  static constexpr int kXBytes = kRows * kRowBytes;
  static constexpr int kWBytes = kColumns * kRowBytes;
  static constexpr int kSums = kColumns / 2;                   // of a thread
  static constexpr int kRegisters = kGroups == 3 ? 160 : 232;  // of a consumer thread
  static constexpr int kCopyingRegisters = kGroups == 3 ? 32 : 40;

  /// The shape of a tile that is split along N.
  template <int kSplit>
  using Split = TileShape<Operands, kGroups, kColumns / kSplit, kStages, kAxis, kChanges>;
  /// The blocks of a cluster share x only where they have the same terms.
  static_assert(!kChanges || !kSharesRows);
};

template <typename Shape>
struct SharedTiles {
  unsigned char x[Shape::kStages][Shape::kXBytes];
  unsigned char w[Shape::kStages][Shape::kWBytes];
  alignas(16) float bias[Shape::kColumns];  // of the tile's columns
  alignas(16) float gate[Shape::kColumns];  // likewise; where heads are normalised their weights
  alignas(16) float scales[Shape::kScaled ? Shape::kColumns : 4];  // likewise, of the weights' rows
  /// The sums of squares that the other block has of its half of a shared head. Tiles use the two
  /// slots in turn.
  float squares[2][Shape::kRows];
  uint64_t full[Shape::kStages], empty[Shape::kStages];
  uint64_t columns_full, columns_empty;
  uint64_t squares_full[2];
};

/// A HopperLinear::Segment as the kernel needs it.
struct Segment {
  CUtensorMap x;
  CUtensorMap w[2];  // for whole tiles and for split ones
  void* out;         // bf16, or e4m3 where out_scales are given
  int64_t out_stride;
  const float* bias;  // null where left out, as gate
  const float* gate;
  const bf16* residual;
  int64_t residual_stride;
  HopperLinear::Norm norm;
  HopperLinear::Scales scales;
  int rows;
  int pairs_down;   // pairs of tiles that cover the rows
  int band;         // pairs down the rows before the next columns
  int pairs_aside;  // pairs of tiles that cover the columns
  int first_pair;
};

/// A work item of a cluster is a pair of whole tiles, or of tiles that are split along N.
struct Args {
  Segment segments[kMaxLinearSegments];
  int count;
  int whole;  // pairs of whole tiles
  int split;  // split-N factor of the remaining pairs
  int items;  // pairs, those that are split counted `split` times
  int columns;
  int q_columns;     // the first columns, which are queries, where there is a norm
  int norm_columns;  // those that are queries or keys
  int stages;        // of a tile, along the depth
  bool keeps_x;      // in the L2 cache, rather than weights
};

/// A HopperLinear::Term as the kernel needs it.
struct Term {
  const bf16* x;
  int64_t x_stride;
  int depth;
  int stages;
  int begin, end;  // columns
  float up_norm;
};
struct TermMaps {
  CUtensorMap x;
  CUtensorMap up[2];  // for whole tiles and for split ones
};
/// Those of a segment.
struct SegmentChanges {
  int first, count;  // terms
  const float* factors;
  const bf16* added;
  int64_t added_stride;
};
struct ChangeArgs : Args {
  SegmentChanges changes[kMaxLinearSegments];
  Term terms[kMaxLinearTerms];
  TermMaps maps[kMaxLinearTerms];
};
template <typename Shape>
using ArgsOf = std::conditional_t<Shape::kChanges, ChangeArgs, Args>;
constexpr int kMostParameterBytes = 32764;  // of a kernel
static_assert(sizeof(ChangeArgs) <= kMostParameterBytes);

/// The place of a block's tile, whole or split.
struct TileCoord {
  int segment;
  int row, column;
  int columns;  // fewer than the shape's in a split tile

  template <typename Shape>
  __device__ static TileCoord of(const Args& args, int item, Shape) {
    int columns = Shape::kColumns;
    int skipped = 0;
    if (item >= args.whole) {
      columns /= args.split;
      skipped = (item - args.whole) % args.split * columns;
      item = args.whole + (item - args.whole) / args.split;
    }
    int index = 0;
    while (index + 1 < args.count && item >= args.segments[index + 1].first_pair) ++index;
    const Segment& segment = args.segments[index];
    const int own = item - segment.first_pair;
    // Down the rows of a band, then along the columns: the tiles of a wave form about a square, so
    // that it reads little, and a band's rows of x stay in the L2 cache.
    const int first = own / (segment.band * segment.pairs_aside) * segment.band;
    const int in_band = own - first * segment.pairs_aside;
    const int rows = min(segment.band, segment.pairs_down - first);
    const auto rank = static_cast<int>(cluster_rank());
    const int row = (first + in_band % rows) * Shape::kTilesBelow + (Shape::kSharesRows ? 0 : rank);
    const int column = in_band / rows * Shape::kTilesAside + (Shape::kSharesRows ? rank : 0);
    return {index, row * Shape::kRows, column * Shape::kColumns + skipped, columns};
  }
};

/// Calls f with each term that concerns columns of the tile, and its maps.
template <typename F>
__device__ void for_each_term(const ChangeArgs& args, const TileCoord& tile, const F& f) {
  const SegmentChanges& changes = args.changes[tile.segment];
  for (int i = 0; i < changes.count; ++i) {
    const Term& term = args.terms[changes.first + i];
    if (tile.column < term.end && tile.column + tile.columns > term.begin) {
      f(term, args.maps[changes.first + i]);
    }
  }
}

}  // namespace flux::cuda::hopper::linear
