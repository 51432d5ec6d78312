#include <algorithm>
#include <limits>

#include "ops/cuda/kernels/hopper_linear.cuh"
#include "ops/cuda/kernels/hopper_linear_endings.cuh"
#include "ops/cuda/kernels/hopper_linear_sharing.h"
#include "ops/cuda/kernels/launch.cuh"
#include "ops/cuda/kernels/tensor_map.h"

/// bf16 linears on Hopper that end with what follows them, so that it costs no pass over memory:
/// bias, GELU, gate and residual, norm and rotation. Two blocks of a cluster take neighbouring
/// tiles and copy half of what both need each, for both. In a block one thread copies and some
/// warpgroups multiply, 64 rows each, and store from their registers, a little beside each stage of
/// the next tile. Tiles of several parts (text and image, or the images of a batch) are shared out
/// as one; those of a last turn that would leave most blocks idle in pieces of fewer columns.
namespace flux::cuda {
namespace {

using namespace hopper;
using namespace hopper::linear;

/// The cluster's first work, and how many further on its next one is.
[[maybe_unused]] __device__ int first_work() { return static_cast<int>(blockIdx.x) / kCluster; }
[[maybe_unused]] __device__ int next_work() { return static_cast<int>(gridDim.x) / kCluster; }

/// Brings what the tile's columns have.
template <typename Shape, Ending kEnding>
__device__ void copy_columns(const Args& args, Tiles<Shape>& tiles, const Place& place,
                             uint32_t parity) {
  const Part& part = args.parts[place.part];
  const auto first = static_cast<unsigned>(place.column);  // the copying thread has few registers
  const int bytes = max(0, min(place.columns, args.columns - place.column)) * 4;
  int expected = bytes * ((part.bias != nullptr) + (part.gate != nullptr));
  if constexpr (kEnding == Ending::kNorm) {
    expected = max(0, min(place.columns, args.normed - place.column)) * 4;
    if (part.bias) expected += bytes;
  }
  wait(&tiles.columns_empty, parity ^ 1);
  expect(&tiles.columns_full, static_cast<uint32_t>(expected));
  if (bytes == 0) return;
  if (part.bias) copy_bytes(tiles.bias, part.bias + first, bytes, &tiles.columns_full);
  if constexpr (kEnding == Ending::kNorm) {
    constexpr int kHalf = kHeadDim / 2;
#pragma unroll
    for (int i = 0; i < Shape::kColumns; i += kHalf) {
      const int column = place.column + i;
      if (i >= place.columns || column >= args.normed) break;
      const float* weights = part.norm.weights[column < args.queries ? 0 : 1];
      copy_bytes(tiles.gate + i, weights + column % kHeadDim, kHalf * 4, &tiles.columns_full);
    }
  } else if (part.gate) {
    copy_bytes(tiles.gate, part.gate + first, bytes, &tiles.columns_full);
  }
}

/// One thread that copies everything.
template <typename Shape, Ending kEnding>
__device__ void produce(const Args& args, Tiles<Shape>& tiles) {
  constexpr uint16_t kBoth = 3;
  Ring<Shape::kStages> ring;
  const auto rank = static_cast<int>(cluster_rank());
  const uint64_t policy = keep_policy(args.keeps_x);  // of weights
  uint32_t columns_parity = 0;
  for (int work = first_work(); work < args.works; work += next_work()) {
    const Place place = Place::of(args, work, Shape{});
    const Part& part = args.parts[place.part];
    const CUtensorMap& w_map = part.w[place.columns < Shape::kColumns];
    for (int i = 0; i < args.chunks; ++i) {
      uint64_t* full = &tiles.full[ring.stage];
      unsigned char* x = tiles.x[ring.stage];
      unsigned char* w = tiles.w[ring.stage];
      wait(&tiles.empty[ring.stage], ring.parity ^ 1);
      expect(full, Shape::kXBytes + place.columns * kRowBytes);
      if constexpr (Shape::kSharesRows) {
        const int half = rank * Shape::kCopiedRows;
        copy_box_to_cluster(x + half * kRowBytes, part.x, full, i * kDepth, place.row + half, 0,
                            kBoth);
        copy_box(w, w_map, full, i * kDepth, place.column, 0, policy);
      } else {
        const int half = rank * (place.columns / kCluster);
        copy_box(x, part.x, full, i * kDepth, place.row, 0);
        copy_box_to_cluster(w + half * kRowBytes, w_map, full, i * kDepth, place.column + half, 0,
                            kBoth, policy);
      }
      ring.next();
    }
    // The tile before is finished while this one is multiplied: its columns are free by now.
    copy_columns<Shape, kEnding>(args, tiles, place, columns_parity);
    columns_parity ^= 1;
  }
}

template <int kSums>
__device__ void issue(float (&sums)[kSums], Described x, Described w) {
#pragma unroll
  for (int k = 0; k < kDepth / 16; ++k) product(sums, x.after(k * 32), w.after(k * 32), true);
}

/// Norms need whole heads.
template <typename Shape>
__host__ __device__ constexpr Pieces pieces_of(bool norm) {
  if (norm) return {Shape::kColumns == 2 * kHeadDim ? 2 : 1, 1};
  return {2, Shape::kColumns > 128 ? Shape::kColumns / 64 : 1};
}

/// A thread of a warpgroup that multiplies.
template <typename Shape, Ending kEnding>
struct Consumer {
  static constexpr Pieces kAllowed = pieces_of<Shape>(kEnding == Ending::kNorm);
  using Tile = Finish<Shape, 1, kEnding>;

  const Args& args;
  Tiles<Shape>& tiles;
  int group;
  Described first_x = Described::rows(tiles.x[0] + group * 64 * kRowBytes);
  Described first_w = Described::rows(tiles.w[0]);
  Ring<Shape::kStages> ring{};
  uint32_t columns_parity = 0;
  Exchanges exchanges{};
  int work = first_work();
  Place next = Place::of(args, work, Shape{});
  Tile before{};  // the tile before, while it is not finished
  typename Tile::Loaded loaded{};
  bool unfinished = false;

  __device__ __forceinline__ void run() {
    while (work < args.whole) multiply<1>();
    if (work >= args.works) return;  // else a piece is left
    if constexpr (kAllowed.more > 1) {
      if (args.pieces == kAllowed.more) return multiply<kAllowed.more>();
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

  /// Multiplies a stage, and does something else meanwhile.
  template <int kSums, typename F>
  __device__ __forceinline__ void multiply_stage(float (&sums)[kSums], int& previous, bool first,
                                                 const F& meanwhile) {
    wait(&tiles.full[ring.stage], ring.parity);
    begin_products();
    issue(sums, first_x.after(ring.stage * Shape::kXBytes),
          first_w.after(ring.stage * Shape::kWBytes));
    commit_products();
    meanwhile();
    wait_products<1>();
    if (!first) release(previous);
    previous = ring.stage;
    ring.next();
  }

  /// A step of a tile's end. Of what steps need kAhead are loaded in advance, in turns.
  template <int kStep, int kAhead, typename End, typename Loaded>
  __device__ __forceinline__ void do_step(End& end, Loaded* loaded) {
    constexpr int kLoad = End::load_of(kStep);
    end.template step<kStep>(args, tiles, loaded[(kLoad < 0 ? 0 : kLoad) % kAhead], exchanges);
    constexpr bool kIsLast = kStep + 1 == End::kSteps || End::load_of(kStep + 1) != kLoad;
    if constexpr (kLoad >= 0 && kIsLast && kLoad + kAhead < End::kLoads) {
      end.template load<kLoad + kAhead>(args, loaded[kLoad % kAhead]);
    }
  }
  template <int kStep>
  __device__ __forceinline__ void do_step_before() {
    do_step<kStep, 1>(before, &loaded);
  }
  /// All its steps are done.
  __device__ __forceinline__ void end_before() {
    release_columns();
    unfinished = false;
  }

  template <int kPieces>
  __device__ __forceinline__ void multiply() {
    using Own = Finish<Shape, kPieces, kEnding>;
    const Place place = next;
    // Zeroed, else the last tile's would keep their registers for nothing.
    float sums[Shape::template Piece<kPieces>::kSums] = {};
    int previous = 0;
    int i = 0;
    if (unfinished) {
      for_each_constant<Tile::kSteps>([&](auto k) {
        multiply_stage(sums, previous, k.value == 0, [&] { do_step_before<k.value>(); });
      });
      i = Tile::kSteps;
      end_before();
    }
    for (; i < args.chunks; ++i) multiply_stage(sums, previous, i == 0, [] {});
    // While the last products run:
    Own own(place, group);
    constexpr int kAhead = kPieces == 1 ? 1 : 4;
    typename Own::Loaded first[kAhead];
    for_each_constant<(kAhead < Own::kLoads ? kAhead : Own::kLoads)>(
        [&](auto k) { own.template load<k.value>(args, first[k.value]); });
    work += next_work();
    if (work < args.works) next = Place::of(args, work, Shape{});
    wait_products<0>();
    pin(sums);
    release(previous);
    wait(&tiles.columns_full, columns_parity);
    columns_parity ^= 1;
    own.round(args, tiles, sums);
    if constexpr (kPieces == 1) {
      before = own;
      loaded = first[0];
      unfinished = true;
      // There is no next tile, or it has too few stages.
      if (work >= args.works || args.chunks < Tile::kSteps) {
        for_each_constant<Tile::kSteps>([&](auto k) { do_step_before<k.value>(); });
        end_before();
      }
    } else {
      for_each_constant<Own::kSteps>([&](auto k) { do_step<k.value, kAhead>(own, first); });
      release_columns();
    }
  }
};

template <typename Shape>
__device__ void init_barriers(Tiles<Shape>& tiles) {
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

template <typename Shape, Ending kEnding>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    hopper_linear_kernel(const __grid_constant__ Args args) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  auto& tiles = shared_tiles<Tiles<Shape>>();
  if (threadIdx.x == 0) init_barriers(tiles);
  sync_cluster();
  begin_kernel();
  if (threadIdx.x < 128) {
    give_registers<Shape::kCopyingRegisters>();
    if (threadIdx.x == 0) produce<Shape, kEnding>(args, tiles);
  } else {
    take_registers<Shape::kRegisters>();
    Consumer<Shape, kEnding>{args, tiles, warpgroup() - 1}.run();
  }
  // The other block may still copy to this one, or arrive here.
  sync_cluster();
#endif
}

template <typename Shape>
void fill(const HopperLinear& linear, int clusters, Args& args) {
  args.count = static_cast<int>(linear.parts.size());
  args.columns = static_cast<int>(linear.columns);
  args.queries = linear.head_dim > 0 ? static_cast<int>(linear.columns / 3) : 0;
  args.normed = 2 * args.queries;
  args.chunks = divide_up(linear.depth, kDepth);
  // Weights of wide linears are read once for each band of rows, x for every few columns.
  constexpr int64_t kKept = int64_t{32} << 20;
  int64_t rows = 0;
  for (const HopperLinear::Part& part : linear.parts) rows += part.rows;
  args.keeps_x = rows * linear.depth * 2 <= kKept;
  int pairs = 0;
  for (int i = 0; i < args.count; ++i) {
    const HopperLinear::Part& from = linear.parts[static_cast<size_t>(i)];
    Part& to = args.parts[i];
    to.out = static_cast<bf16*>(from.out);
    to.out_stride = from.out_stride;
    to.residual = static_cast<const bf16*>(from.residual);
    to.residual_stride = from.residual_stride;
    to.norm = from.norm;
    to.rows = static_cast<int>(from.rows);
    to.bias = from.bias;
    to.gate = from.gate;
    to.row_turns = divide_up(from.rows, Shape::kRows * Shape::kTilesBelow);
    to.band = band_of(to.row_turns, Shape::kRows * Shape::kTilesBelow);
    to.column_turns = divide_up(linear.columns, Shape::kColumns * Shape::kTilesAside);
    to.first_work = pairs;
    pairs += to.row_turns * to.column_turns;
  }
  const Sharing sharing = share_out(pairs, clusters, pieces_of<Shape>(linear.head_dim > 0));
  args.whole = sharing.whole;
  args.pieces = sharing.pieces;
  args.works = args.whole + (pairs - args.whole) * args.pieces;
}

template <typename Shape>
cudaError_t make_maps(const HopperLinear& linear, Args& args) {
  const auto make = [&](CUtensorMap& map, const void* address, int64_t rows, int64_t stride,
                        int64_t box_rows) {
    return make_tensor_map(map, address, {linear.depth, rows, 1}, {stride, stride * rows},
                           {kDepth, box_rows, 1});
  };
  for (int i = 0; i < args.count; ++i) {
    const HopperLinear::Part& from = linear.parts[static_cast<size_t>(i)];
    Part& to = args.parts[i];
    const auto make_w = [&](int pieces) {
      return make(to.w[pieces > 1], from.weights, linear.columns, linear.depth,
                  Shape::kCopiedColumns / pieces);
    };
    cudaError_t result = make(to.x, from.x, from.rows, from.x_stride, Shape::kCopiedRows);
    if (result == cudaSuccess) result = make_w(1);
    if (result == cudaSuccess && args.pieces > 1) result = make_w(args.pieces);
    if (result != cudaSuccess) return result;
  }
  return cudaSuccess;
}

template <typename Shape, Ending kEnding>
cudaError_t launch(const HopperLinear& linear, int multiprocessors, cudaStream_t stream) {
  Args args{};
  fill<Shape>(linear, multiprocessors / kCluster, args);
  const cudaError_t result = make_maps<Shape>(linear, args);
  if (result != cudaSuccess) return result;
  constexpr int kShared = sizeof(Tiles<Shape>) + 1024;
  static_assert(kShared <= 227 * 1024);
  static_assert(Shape::kSums < Shape::kRegisters);
  // What the block begins with: else threads would wait for registers for ever.
  constexpr int kAtFirst = 65536 / Shape::kThreads / 8 * 8 * Shape::kThreads;
  static_assert(128 * (Shape::kCopyingRegisters + Shape::kGroups * Shape::kRegisters) <= kAtFirst);
  const int clusters = std::min(args.works, multiprocessors / kCluster);
  const auto blocks = static_cast<unsigned>(clusters * kCluster);
  return launch_kernel(hopper_linear_kernel<Shape, kEnding>,
                       {blocks, Shape::kThreads, stream, kShared, kCluster}, args);
}

using Launch = cudaError_t (*)(const HopperLinear&, int, cudaStream_t);

template <typename Shape>
Launch launch_of(const HopperLinear& linear) {
  if constexpr (Shape::kHasHeads) {
    if (linear.head_dim > 0) return launch<Shape, Ending::kNorm>;
  }
  if (linear.parts[0].residual != nullptr) return launch<Shape, Ending::kResidual>;
  return linear.gelu ? launch<Shape, Ending::kGelu> : launch<Shape, Ending::kBias>;
}

/// What a cluster computes at a time, and how much longer than others it takes for an element.
struct Choice {
  int rows, columns;
  double extra;
  double norm_extra;  // if it ends with norms
  bool norms;         // whether it can
  Pieces pieces, norm_pieces;
  Launch (*launch)(const HopperLinear&);

  bool suits(const HopperLinear& linear) const { return norms || linear.head_dim == 0; }
};
template <int kGroups, int kColumns, int kStages, Shared kShared>
constexpr Choice choice(double extra) {
  using Shape = TileShape<kGroups, kColumns, kStages, kShared>;
  return {Shape::kRows * Shape::kTilesBelow,
          kColumns * Shape::kTilesAside,
          extra,
          extra * (Shape::kWholeHeads ? 1.05 : 1.12),  // two blocks' halves of a head cost more
          Shape::kHasHeads,
          pieces_of<Shape>(false),
          pieces_of<Shape>(true),
          launch_of<Shape>};
}
constexpr Choice kChoices[kLinearTiles] = {
    choice<3, 192, 4, Shared::kRows>(1.0), choice<3, 192, 4, Shared::kColumns>(1.0),
    choice<2, 256, 4, Shared::kColumns>(1.02), choice<2, 192, 5, Shared::kColumns>(1.05),
    choice<2, 128, 6, Shared::kColumns>(1.18)};

/// What the tiles take, in elements of the result that a cluster computes one after the other.
/// While some wait in the last turn the others run faster, for the GPU is at its power limit.
double elements(const HopperLinear& linear, const Choice& tile, int multiprocessors) {
  const int clusters = multiprocessors / kCluster;
  int pairs = 0;
  for (const HopperLinear::Part& part : linear.parts) {
    pairs += divide_up(part.rows, tile.rows) * divide_up(linear.columns, tile.columns);
  }
  const bool norm = linear.head_dim > 0;
  const Sharing sharing = share_out(pairs, clusters, norm ? tile.norm_pieces : tile.pieces);
  const double turns = 0.75 * sharing.turns + 0.25 * static_cast<double>(pairs) / clusters;
  return (norm ? tile.norm_extra : tile.extra) * turns * tile.rows * tile.columns;
}

const Choice& best_choice(const HopperLinear& linear, int multiprocessors) {
  const auto cost = [&](const Choice& tile) {
    return tile.suits(linear) ? elements(linear, tile, multiprocessors)
                              : std::numeric_limits<double>::infinity();
  };
  return *std::min_element(std::begin(kChoices), std::end(kChoices),
                           [&](const Choice& a, const Choice& b) { return cost(a) < cost(b); });
}

}  // namespace

bool hopper_linear_supports(const HopperLinear& linear) {
  const auto aligned = [](const void* address, int64_t stride) {
    return reinterpret_cast<uintptr_t>(address) % 16 == 0 && stride % 8 == 0;
  };
  const bool heads = linear.head_dim == kHeadDim && linear.columns % (3 * kHeadDim) == 0;
  if (linear.head_dim != 0 && (!heads || linear.gelu)) return false;
  if (linear.tile >= 0 && !kChoices[linear.tile].suits(linear)) return false;
  return linear.depth % 8 == 0 && linear.columns % 8 == 0 && !linear.parts.empty() &&
         linear.parts.size() <= kMaxLinearParts &&
         std::all_of(linear.parts.begin(), linear.parts.end(), [&](const auto& part) {
           return part.rows > 0 && aligned(part.x, part.x_stride) &&
                  aligned(part.weights, linear.depth) && aligned(part.out, part.out_stride) &&
                  aligned(part.residual, part.residual_stride) && aligned(part.bias, 0) &&
                  aligned(part.gate, 0) && aligned(part.norm.weights[0], 0) &&
                  aligned(part.norm.weights[1], 0) && aligned(part.norm.cos, 0) &&
                  aligned(part.norm.sin, 0) &&
                  (part.residual == nullptr) == (linear.parts[0].residual == nullptr) &&
                  (part.residual != nullptr || part.gate == nullptr) &&
                  !(part.residual != nullptr && (linear.gelu || linear.head_dim != 0));
         });
}

double hopper_linear_operations(const HopperLinear& linear, int multiprocessors) {
  const Choice& tile = best_choice(linear, multiprocessors);
  const int clusters = multiprocessors / kCluster;
  return 2.0 * elements(linear, tile, multiprocessors) * clusters *
         static_cast<double>(linear.depth);
}

cudaError_t hopper_linear(const HopperLinear& linear, int multiprocessors, cudaStream_t stream) {
  const Choice& tile =
      linear.tile < 0 ? best_choice(linear, multiprocessors) : kChoices[linear.tile];
  return tile.launch(linear)(linear, multiprocessors, stream);
}

}  // namespace flux::cuda
