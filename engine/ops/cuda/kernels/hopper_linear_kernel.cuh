#pragma once

#include <algorithm>
#include <utility>

#include "ops/cuda/kernels/hopper_linear.cuh"
#include "ops/cuda/kernels/hopper_linear_epilogue.cuh"
#include "ops/cuda/kernels/hopper_linear_plan.h"
#include "ops/cuda/kernels/launch.cuh"

/// The kernel of hopper_linear.cu and how it is launched; hopper_linear_bf16.cu and
/// hopper_linear_e4m3.cu compile it for either kind of operands.
namespace flux::cuda::hopper::linear {

/// First work item of this cluster, and the stride to the next.
inline __device__ int first_item() { return static_cast<int>(blockIdx.x) / kCluster; }
inline __device__ int item_stride() { return static_cast<int>(gridDim.x) / kCluster; }

/// Copies the bias and the gate, or the norms' weights, of a tile's columns.
template <typename Shape, EpilogueKind kKind>
__device__ void copy_columns(const Args& args, SharedTiles<Shape>& tiles, const TileCoord& tile,
                             uint32_t parity) {
  const Segment& segment = args.segments[tile.segment];
  const auto first = static_cast<unsigned>(tile.column);  // the producer thread has few registers
  const int bytes = max(0, min(tile.columns, args.columns - tile.column)) * 4;
  int expected = bytes * ((segment.bias != nullptr) + (segment.gate != nullptr));
  if constexpr (kKind == EpilogueKind::kNorm) {
    expected = max(0, min(tile.columns, args.norm_columns - tile.column)) * 4;
    if (segment.bias) expected += bytes;
  }
  if constexpr (Shape::kScaled) expected += bytes;
  wait(&tiles.columns_empty, parity ^ 1);
  expect(&tiles.columns_full, static_cast<uint32_t>(expected));
  if (bytes == 0) return;
  if (segment.bias) copy_bytes(tiles.bias, segment.bias + first, bytes, &tiles.columns_full);
  if constexpr (Shape::kScaled) {
    copy_bytes(tiles.scales, segment.scales.w + first, bytes, &tiles.columns_full);
  }
  if constexpr (kKind == EpilogueKind::kNorm) {
    constexpr int kHalf = kHeadDim / 2;
#pragma unroll
    for (int i = 0; i < Shape::kColumns; i += kHalf) {
      const int column = tile.column + i;
      if (i >= tile.columns || column >= args.norm_columns) break;
      const float* weights = segment.norm.weights[column < args.q_columns ? 0 : 1];
      copy_bytes(tiles.gate + i, weights + column % kHeadDim, kHalf * 4, &tiles.columns_full);
    }
  } else if (segment.gate) {
    copy_bytes(tiles.gate, segment.gate + first, bytes, &tiles.columns_full);
  }
}

/// The producer thread: copies everything that the tiles of this block need.
template <typename Shape, EpilogueKind kKind>
__device__ void produce(const ArgsOf<Shape>& args, SharedTiles<Shape>& tiles) {
  constexpr uint16_t kBoth = 3;
  Ring<Shape::kStages> ring;
  const auto rank = static_cast<int>(cluster_rank());
  const uint64_t policy = l2_policy(args.keeps_x);  // of weights
  uint32_t columns_parity = 0;
  for (int item = first_item(); item < args.items; item += item_stride()) {
    const TileCoord tile = TileCoord::of(args, item, Shape{});
    const Segment& segment = args.segments[tile.segment];
    const CUtensorMap& w_map = segment.w[tile.columns < Shape::kColumns];
    for (int i = 0; i < args.stages; ++i) {
      uint64_t* full = &tiles.full[ring.stage];
      unsigned char* x = tiles.x[ring.stage];
      unsigned char* w = tiles.w[ring.stage];
      wait(&tiles.empty[ring.stage], ring.parity ^ 1);
      expect(full, Shape::kXBytes + tile.columns * kRowBytes);
      if constexpr (Shape::kSharesRows) {
        const int half = rank * Shape::kCopiedRows;
        copy_box_to_cluster(x + half * kRowBytes, segment.x, full, i * Shape::Operands::kDepth,
                            tile.row + half, 0, kBoth);
        copy_box(w, w_map, full, i * Shape::Operands::kDepth, tile.column, 0, policy);
      } else {
        const int half = rank * (tile.columns / kCluster);
        copy_box(x, segment.x, full, i * Shape::Operands::kDepth, tile.row, 0);
        copy_box_to_cluster(w + half * kRowBytes, w_map, full, i * Shape::Operands::kDepth,
                            tile.column + half, 0, kBoth, policy);
      }
      ring.next();
    }
    // The epilogue of the tile before ran while this one was multiplied: its columns are free.
    copy_columns<Shape, kKind>(args, tiles, tile, columns_parity);
    columns_parity ^= 1;
    if constexpr (Shape::kChanges) {
      for_each_term(args, tile, [&](const Term& term, const TermMaps& maps) {
        const CUtensorMap& up_map = maps.up[tile.columns < Shape::kColumns];
        const int half = rank * (tile.columns / kCluster);
        for (int i = 0; i < term.stages; ++i) {
          uint64_t* full = &tiles.full[ring.stage];
          wait(&tiles.empty[ring.stage], ring.parity ^ 1);
          expect(full, Shape::kXBytes + tile.columns * kRowBytes);
          copy_box(tiles.x[ring.stage], maps.x, full, i * Bf16Operands::kDepth, tile.row, 0);
          // Columns beyond those of the term are filled with zeros.
          copy_box_to_cluster(tiles.w[ring.stage] + half * kRowBytes, up_map, full,
                              i * Bf16Operands::kDepth, tile.column - term.begin + half, 0, kBoth);
          ring.next();
        }
      });
    }
  }
}

template <typename Operands, int kSums>
__device__ void issue(float (&sums)[kSums], Descriptor x, Descriptor w) {
#pragma unroll
  for (int at = 0; at < kRowBytes; at += 32) Operands::multiply(sums, x.after(at), w.after(at));
}

/// A thread of a consumer warpgroup.
template <typename Shape, EpilogueKind kKind>
struct Consumer {
  static constexpr SplitFactors kAllowed =
      split_factors(Shape::kColumns, kKind == EpilogueKind::kNorm);
  using Tile = TileEpilogue<Shape, 1, kKind>;

  const ArgsOf<Shape>& args;
  SharedTiles<Shape>& tiles;
  int group;
  Descriptor first_x = Descriptor::rows(tiles.x[0] + group * 64 * kRowBytes);
  Descriptor first_w = Descriptor::rows(tiles.w[0]);
  Ring<Shape::kStages> ring{};
  uint32_t columns_parity = 0;
  Exchanges exchanges{};
  int item = first_item();
  TileCoord next = TileCoord::of(args, item, Shape{});
  Tile before{};  // the tile before, while its epilogue is not done
  typename Tile::Loaded loaded{};
  bool unfinished = false;

  __device__ __forceinline__ void run() {
    while (item < args.whole) multiply<1>();
    if (item >= args.items) return;  // else a split tile is left
    if constexpr (kAllowed.more > 1) {
      if (args.split == kAllowed.more) return multiply<kAllowed.more>();
    }
    if constexpr (kAllowed.some > 1) multiply<kAllowed.some>();
  }

 private:
  /// Both blocks copy to both: a stage is free when both have read it.
  __device__ void release(int stage) const {
    const uint32_t lane = threadIdx.x % 32;
    if (lane < kCluster) arrive_at(&tiles.empty[stage], lane);
  }
  __device__ void release_columns() const {
    __syncwarp();
    if (threadIdx.x % 32 == 0) arrive(&tiles.columns_empty);
  }

  /// Multiplies a stage and calls `meanwhile` while the products run.
  template <typename Operands = typename Shape::Operands, int kSums, typename F>
  __device__ __forceinline__ void multiply_stage(float (&sums)[kSums], int& previous, bool first,
                                                 const F& meanwhile) {
    wait(&tiles.full[ring.stage], ring.parity);
    begin_products();
    issue<Operands>(sums, first_x.after(ring.stage * Shape::kXBytes),
                    first_w.after(ring.stage * Shape::kWBytes));
    commit_products();
    meanwhile();
    wait_products<1>();
    if (!first) release(previous);
    previous = ring.stage;
    ring.next();
  }

  /// A step of an epilogue. Loads run kAhead ahead of their use, in a ring.
  template <int kStep, int kAhead, typename Epilogue, typename Loaded>
  __device__ __forceinline__ void do_step(Epilogue& epilogue, Loaded* loaded) {
    constexpr int kLoad = Epilogue::load_of(kStep);
    epilogue.template step<kStep>(args, tiles, loaded[(kLoad < 0 ? 0 : kLoad) % kAhead], exchanges);
    constexpr bool kIsLast = kStep + 1 == Epilogue::kSteps || Epilogue::load_of(kStep + 1) != kLoad;
    if constexpr (kLoad >= 0 && kIsLast && kLoad + kAhead < Epilogue::kLoads) {
      epilogue.template load<kLoad + kAhead>(args, loaded[kLoad % kAhead]);
    }
  }
  template <int kStep>
  __device__ __forceinline__ void do_step_before() {
    do_step<kStep, 1>(before, &loaded);
  }
  /// To be called when all steps of `before` are done.
  __device__ __forceinline__ void finish_before() {
    release_columns();
    unfinished = false;
  }

  /// Adds what changes of the weights add before the sums are rounded; whether it scaled them.
  template <typename Own, int kSums>
  __device__ __forceinline__ bool change(const Own& own, float (&sums)[kSums], int& previous) {
    int stages = 0;
    for_each_term(args, own.tile,
                  [&](const Term& term, const TermMaps&) { stages += term.stages; });
    const bool scales =
        args.changes[own.tile.segment].factors != nullptr || (Shape::kScaled && stages > 0);
    if (scales) {
      const float2 row_scales = own.row_scales(args);
      wait_products<0>();
      pin(sums);
      if constexpr (Shape::kScaled) wait(&tiles.columns_full, columns_parity);
      own.scale(args, tiles, row_scales, sums);
      pin(sums);
    }
    for (int i = 0; i < stages; ++i) {
      multiply_stage<Bf16Operands>(sums, previous, false, [] {});
    }
    return scales;
  }

  template <int kSplit>
  __device__ __forceinline__ void multiply() {
    using Own = TileEpilogue<Shape, kSplit, kKind>;
    const TileCoord tile = next;
    // Zeroed, else the sums of the tile before would keep their registers for nothing.
    float sums[Shape::template Split<kSplit>::kSums] = {};
    int previous = 0;
    int i = 0;
    if (unfinished) {
      for_each_constant<Tile::kSteps>([&](auto k) {
        multiply_stage(sums, previous, k.value == 0, [&] { do_step_before<k.value>(); });
      });
      i = Tile::kSteps;
      finish_before();
    }
    for (; i < args.stages; ++i) multiply_stage(sums, previous, i == 0, [] {});
    Own own(tile, group);
    bool scaled = false;
    if constexpr (Shape::kChanges) scaled = change(own, sums, previous);
    // While the last products run:
    constexpr int kAhead = kSplit == 1 ? 1 : 4;
    typename Own::Loaded first[kAhead];
    for_each_constant<(kAhead < Own::kLoads ? kAhead : Own::kLoads)>(
        [&](auto k) { own.template load<k.value>(args, first[k.value]); });
    item += item_stride();
    if (item < args.items) next = TileCoord::of(args, item, Shape{});
    const float2 scales = own.row_scales(args);
    wait_products<0>();
    pin(sums);
    release(previous);
    wait(&tiles.columns_full, columns_parity);
    columns_parity ^= 1;
    own.round(args, tiles, scales, scaled, sums);
    if constexpr (kSplit == 1) {
      before = own;
      loaded = first[0];
      unfinished = true;
      // There is no next tile, or it has too few stages.
      if (item >= args.items || args.stages < Tile::kSteps) {
        for_each_constant<Tile::kSteps>([&](auto k) { do_step_before<k.value>(); });
        finish_before();
      }
    } else {
      for_each_constant<Own::kSteps>([&](auto k) { do_step<k.value, kAhead>(own, first); });
      release_columns();
    }
  }
};

template <typename Shape>
__device__ void init_barriers(SharedTiles<Shape>& tiles) {
  constexpr int kWarps = Shape::kGroups * 4;
  for (int i = 0; i < Shape::kStages; ++i) {
    init_barrier(&tiles.full[i], 1);
    init_barrier(&tiles.empty[i], kCluster * kWarps);
  }
  init_barrier(&tiles.columns_full, 1);
  init_barrier(&tiles.columns_empty, kWarps);
  for (uint64_t& full : tiles.squares_full) init_barrier(&full, 1);
  fence_barriers();
}

template <typename Shape, EpilogueKind kKind>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    hopper_linear_kernel(const __grid_constant__ ArgsOf<Shape> args) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  auto& tiles = shared_tiles<SharedTiles<Shape>>();
  if (threadIdx.x == 0) init_barriers(tiles);
  sync_cluster();
  begin_kernel();
  if (threadIdx.x < 128) {
    give_registers<Shape::kCopyingRegisters>();
    if (threadIdx.x == 0) produce<Shape, kKind>(args, tiles);
  } else {
    take_registers<Shape::kRegisters>();
    Consumer<Shape, kKind>{args, tiles, warpgroup() - 1}.run();
  }
  // The other block may still copy to this one, or arrive here.
  sync_cluster();
#endif
}

template <typename Shape>
void fill(const HopperLinear& linear, const GpuTraits& gpu, Args& args) {
  args.count = static_cast<int>(linear.segments.size());
  args.columns = static_cast<int>(linear.columns);
  args.q_columns = static_cast<int>(linear.q_columns);
  args.norm_columns = static_cast<int>(linear.q_columns + linear.k_columns);
  args.stages = divide_up(linear.depth, Shape::Operands::kDepth);
  // Weights of wide linears are read once for each band of rows, x for every few columns.
  int64_t rows = 0;
  for (const HopperLinear::Segment& segment : linear.segments) rows += segment.rows;
  args.keeps_x = rows * linear.depth * (Shape::kScaled ? 1 : 2) <= kept_bytes(gpu);
  int pairs = 0;
  for (int i = 0; i < args.count; ++i) {
    const HopperLinear::Segment& from = linear.segments[static_cast<size_t>(i)];
    Segment& to = args.segments[i];
    to.out = from.out;
    to.out_stride = from.out_stride;
    to.residual = static_cast<const bf16*>(from.residual);
    to.residual_stride = from.residual_stride;
    to.norm = from.norm;
    to.scales = from.scales;
    to.rows = static_cast<int>(from.rows);
    to.bias = from.bias;
    to.gate = from.gate;
    to.pairs_down = divide_up(from.rows, Shape::kRows * Shape::kTilesBelow);
    to.band = band_of(to.pairs_down, Shape::kRows * Shape::kTilesBelow, gpu);
    to.pairs_aside = divide_up(linear.columns, Shape::kColumns * Shape::kTilesAside);
    to.first_pair = pairs;
    pairs += to.pairs_down * to.pairs_aside;
  }
  const SplitFactors allowed = split_factors(Shape::kColumns, args.norm_columns > 0);
  const WaveSplit waves = split_waves(pairs, clusters_of(gpu), allowed);
  args.whole = waves.whole;
  args.split = waves.split;
  args.items = args.whole + (pairs - args.whole) * args.split;
}

template <typename Shape>
cudaError_t make_maps(const HopperLinear& linear, Args& args) {
  const auto make = [&](CUtensorMap& map, const void* address, int64_t rows, int64_t stride,
                        int64_t box_rows) {
    return make_tensor_map(map, Shape::Operands::kElement, address, {linear.depth, rows, 1},
                           {stride, stride * rows}, {Shape::Operands::kDepth, box_rows, 1});
  };
  for (int i = 0; i < args.count; ++i) {
    const HopperLinear::Segment& from = linear.segments[static_cast<size_t>(i)];
    Segment& to = args.segments[i];
    const auto make_w = [&](int split) {
      return make(to.w[split > 1], from.weights, linear.columns, linear.depth,
                  Shape::kCopiedColumns / split);
    };
    cudaError_t result = make(to.x, from.x, from.rows, from.x_stride, Shape::kCopiedRows);
    if (result == cudaSuccess) result = make_w(1);
    if (result == cudaSuccess && args.split > 1) result = make_w(args.split);
    if (result != cudaSuccess) return result;
  }
  return cudaSuccess;
}

/// Fills in what there is of changes, of not more than kMaxLinearTerms terms.
template <typename Shape>
cudaError_t fill_changes(const HopperLinear& linear, ChangeArgs& args) {
  constexpr int kDepth = Bf16Operands::kDepth;
  int count = 0;
  for (int i = 0; i < args.count; ++i) {
    const HopperLinear::Segment& segment = linear.segments[static_cast<size_t>(i)];
    const HopperLinear::Changes& from = segment.changes;
    args.changes[i] = {count, static_cast<int>(from.terms.size()), from.factors,
                       static_cast<const bf16*>(from.added), from.added_stride};
    for (const HopperLinear::Term& term : from.terms) {
      TermMaps& maps = args.maps[count];
      args.terms[count++] = {.x = static_cast<const bf16*>(term.x),
                             .x_stride = term.x_stride,
                             .depth = static_cast<int>(term.depth),
                             .stages = divide_up(term.depth, kDepth),
                             .begin = static_cast<int>(term.begin),
                             .end = static_cast<int>(term.begin + term.columns),
                             .up_norm = term.up_norm};
      const auto make = [&](CUtensorMap& map, const void* address, int64_t rows, int64_t stride,
                            int64_t box_rows) {
        return make_tensor_map(map, MapElement::kBf16, address, {term.depth, rows, 1},
                               {stride, stride * rows}, {kDepth, box_rows, 1});
      };
      const auto make_up = [&](int split) {
        return make(maps.up[split > 1], term.up, term.columns, term.depth,
                    Shape::kCopiedColumns / split);
      };
      cudaError_t result = make(maps.x, term.x, segment.rows, term.x_stride, Shape::kCopiedRows);
      if (result == cudaSuccess) result = make_up(1);
      if (result == cudaSuccess && args.split > 1) result = make_up(args.split);
      if (result != cudaSuccess) return result;
    }
  }
  return cudaSuccess;
}

template <typename Shape, EpilogueKind kKind>
cudaError_t launch(const HopperLinear& linear, const GpuTraits& gpu, cudaStream_t stream) {
  ArgsOf<Shape> args{};
  fill<Shape>(linear, gpu, args);
  cudaError_t result = make_maps<Shape>(linear, args);
  if constexpr (Shape::kChanges) {
    if (result == cudaSuccess) result = fill_changes<Shape>(linear, args);
  }
  if (result != cudaSuccess) return result;
  constexpr int kShared = sizeof(SharedTiles<Shape>) + 1024;
  static_assert(kShared <= 227 * 1024);
  static_assert(Shape::kSums < Shape::kRegisters);
  // More registers than the block is launched with would never come: its threads would wait for
  // ever.
  constexpr int kAtLaunch = 65536 / Shape::kThreads / 8 * 8 * Shape::kThreads;
  static_assert(128 * (Shape::kCopyingRegisters + Shape::kGroups * Shape::kRegisters) <= kAtLaunch);
  const int clusters = std::min(args.items, clusters_of(gpu));
  const auto blocks = static_cast<unsigned>(clusters * kCluster);
  return launch_kernel(hopper_linear_kernel<Shape, kKind>,
                       {blocks, Shape::kThreads, stream, kShared, kCluster}, args);
}

/// kTileShapes[kIndex].
template <typename Operands, int kIndex, bool kChanges>
using ShapeOf = TileShape<Operands, kTileShapes[kIndex].groups, kTileShapes[kIndex].columns,
                          kTileShapes[kIndex].stages, kTileShapes[kIndex].axis, kChanges>;

using Launch = cudaError_t (*)(const HopperLinear&, const GpuTraits&, cudaStream_t);

template <typename Operands, int kIndex, bool kChanges>
Launch launch_of(const HopperLinear& linear) {
  if constexpr (kChanges && !kTileShapes[kIndex].changes) {
    return nullptr;
  } else {
    using Shape = ShapeOf<Operands, kIndex, kChanges>;
    if constexpr (kTileShapes[kIndex].can_norm()) {
      if (linear.q_columns + linear.k_columns > 0) return launch<Shape, EpilogueKind::kNorm>;
    }
    if (linear.segments[0].residual != nullptr) return launch<Shape, EpilogueKind::kResidual>;
    return linear.gelu ? launch<Shape, EpilogueKind::kGelu> : launch<Shape, EpilogueKind::kBias>;
  }
}

/// The launch function for kTileShapes[tile].
template <typename Operands, bool kChanges, int... kIndices>
Launch launch_of(const HopperLinear& linear, int tile, std::integer_sequence<int, kIndices...>) {
  using LaunchOf = Launch (*)(const HopperLinear&);
  constexpr LaunchOf kLaunches[] = {launch_of<Operands, kIndices, kChanges>...};
  return kLaunches[tile](linear);
}

/// Launches kTileShapes[tile]; kChanges: for segments with changes of the weights, too.
template <typename Operands, bool kChanges>
cudaError_t launch_tile(const HopperLinear& linear, int tile, const GpuTraits& gpu,
                        cudaStream_t stream) {
  using Indices = std::make_integer_sequence<int, kLinearTiles>;
  const Launch launch = launch_of<Operands, kChanges>(linear, tile, Indices{});
  return launch == nullptr ? cudaErrorInvalidValue : launch(linear, gpu, stream);
}

}  // namespace flux::cuda::hopper::linear
