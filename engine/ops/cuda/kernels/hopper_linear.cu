#include <algorithm>
#include <array>

#include "ops/cuda/kernels/device.cuh"
#include "ops/cuda/kernels/hopper.cuh"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/kernels/tensor_map.h"

/// bf16 linears on Hopper that end with what follows them, so that it costs no pass over memory:
/// bias, GELU, gate and residual. Two blocks of a cluster take neighbouring tiles and copy half of
/// what both need each, for both. In a block one thread copies and some warpgroups multiply, 64
/// rows each, and store from their registers. Tiles of several parts (text and image, or the images
/// of a batch) are shared out as one.
namespace flux::cuda {
namespace {

using namespace hopper;

constexpr int kDepth = 64;             // of a stage
constexpr int kRowBytes = 128;         // of a stage
constexpr int kCluster = 2;            // blocks
constexpr int kCopyingRegisters = 24;  // of a thread beside the multiplying ones

enum class Ending { kBias, kGelu, kResidual };

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
  static constexpr int kCopiedRows = kSharesRows ? kRows / kCluster : kRows;  // by a block
  static constexpr int kCopiedColumns = kSharesRows ? kColumns : kColumns / kCluster;
  static constexpr int kThreads = (1 + kGroups) * 128;
  static constexpr int kXBytes = kRows * kRowBytes;
  static constexpr int kWBytes = kColumns * kRowBytes;
  static constexpr int kSums = kColumns / 2;                   // of a thread
  static constexpr int kRegisters = kGroups == 3 ? 160 : 240;  // of a multiplying thread
};

template <typename Shape>
struct Tiles {
  unsigned char x[Shape::kStages][Shape::kXBytes];
  unsigned char w[Shape::kStages][Shape::kWBytes];
  alignas(16) float bias[Shape::kColumns];  // of the tile, as gate
  alignas(16) float gate[Shape::kColumns];
  uint64_t full[Shape::kStages], empty[Shape::kStages];
  uint64_t columns_full, columns_empty;
};

struct Part {
  CUtensorMap x, w;
  bf16* out;
  int64_t out_stride;
  const float* bias;  // null where left out, as gate
  const float* gate;
  const bf16* residual;
  int64_t residual_stride;
  int rows;
  int row_turns;     // of a cluster, down the rows
  int column_turns;  // along the columns
  int first_work;
};

struct Args {
  Part parts[kMaxLinearParts];
  int count;
  int works;  // pairs of tiles
  int columns;
  int chunks;  // stages of a tile
};

/// A block's tile.
struct Place {
  const Part* part;
  int row, column;

  template <typename Shape>
  __device__ static Place of(const Args& args, int work, Shape) {
    constexpr int kBand = Shape::kSharesRows ? 12 : 8;
    int index = 0;
    while (index + 1 < args.count && work >= args.parts[index + 1].first_work) ++index;
    const Part& part = args.parts[index];
    const int own = work - part.first_work;
    // Down the rows of a band, then along the columns: what runs at a time is about square, so that
    // it reads little, and what a band has of x stays in the L2 cache.
    const int band = own / (kBand * part.column_turns) * kBand;
    const int in_band = own - band * part.column_turns;
    const int rows = min(kBand, part.row_turns - band);
    const auto rank = static_cast<int>(cluster_rank());
    const int row = (band + in_band % rows) * Shape::kTilesBelow + (Shape::kSharesRows ? 0 : rank);
    const int column = in_band / rows * Shape::kTilesAside + (Shape::kSharesRows ? rank : 0);
    return {&part, row * Shape::kRows, column * Shape::kColumns};
  }
};

template <typename Shape, typename F>
__device__ void for_each_work(const Args& args, const F& f) {
  for (int work = static_cast<int>(blockIdx.x) / kCluster; work < args.works;
       work += static_cast<int>(gridDim.x) / kCluster) {
    f(Place::of(args, work, Shape{}));
  }
}

/// Brings what the tile's columns have.
template <typename Shape>
__device__ void copy_columns(const Args& args, Tiles<Shape>& tiles, const Place& place,
                             uint32_t parity) {
  const Part& part = *place.part;
  const int bytes = max(0, min(Shape::kColumns, args.columns - place.column)) * 4;
  const int vectors = (part.bias != nullptr) + (part.gate != nullptr);
  wait(&tiles.columns_empty, parity ^ 1);
  expect(&tiles.columns_full, static_cast<uint32_t>(bytes * vectors));
  if (bytes == 0) return;
  if (part.bias) copy_bytes(tiles.bias, part.bias + place.column, bytes, &tiles.columns_full);
  if (part.gate) copy_bytes(tiles.gate, part.gate + place.column, bytes, &tiles.columns_full);
}

/// One thread that copies everything.
template <typename Shape>
__device__ void produce(const Args& args, Tiles<Shape>& tiles) {
  constexpr uint16_t kBoth = 3;
  Ring<Shape::kStages> ring;
  const auto rank = static_cast<int>(cluster_rank());
  uint32_t columns_parity = 0;
  for_each_work<Shape>(args, [&](const Place& place) {
    for (int i = 0; i < args.chunks; ++i) {
      // Now the tile before has been multiplied, and its columns are free soon.
      if (i == min(Shape::kStages, args.chunks - 1)) {
        copy_columns(args, tiles, place, columns_parity);
        columns_parity ^= 1;
      }
      uint64_t* full = &tiles.full[ring.stage];
      unsigned char* x = tiles.x[ring.stage];
      unsigned char* w = tiles.w[ring.stage];
      wait(&tiles.empty[ring.stage], ring.parity ^ 1);
      expect(full, Shape::kXBytes + Shape::kWBytes);
      if constexpr (Shape::kSharesRows) {
        const int half = rank * Shape::kCopiedRows;
        copy_box_to_cluster(x + half * kRowBytes, place.part->x, full, i * kDepth, place.row + half,
                            0, kBoth);
        copy_box(w, place.part->w, full, i * kDepth, place.column, 0);
      } else {
        const int half = rank * Shape::kCopiedColumns;
        copy_box(x, place.part->x, full, i * kDepth, place.row, 0);
        copy_box_to_cluster(w + half * kRowBytes, place.part->w, full, i * kDepth,
                            place.column + half, 0, kBoth);
      }
      ring.next();
    }
  });
}

/// GELU's tanh by one instruction, exact enough for bf16: what cuBLASLt does.
[[maybe_unused]] __device__ float fast_gelu(float x) {
  float y = x * (0.7978845608f + 0.0356774081f * x * x);
  asm("tanh.approx.f32 %0, %1;\n" : "=f"(y) : "f"(y));
  return 0.5f * x * (1.0f + y);
}

/// Rounds as the product by itself and a pass over its result do.
template <Ending kEnding>
__device__ uint32_t finish_pair(float a, float b, float2 bias, float2 gate, uint32_t residual) {
  a += bias.x;
  b += bias.y;
  if constexpr (kEnding == Ending::kGelu) {
    a = fast_gelu(a);
    b = fast_gelu(b);
  }
  if constexpr (kEnding == Ending::kResidual) {
    const auto both = *reinterpret_cast<const __nv_bfloat162*>(&residual);
    a = __fmaf_rn(to_float(from_float<bf16>(a)), gate.x, __low2float(both));
    b = __fmaf_rn(to_float(from_float<bf16>(b)), gate.y, __high2float(both));
  }
  const __nv_bfloat162 rounded = __floats2bfloat162_rn(a, b);
  return *reinterpret_cast<const uint32_t*>(&rounded);
}

/// A multiplying thread's share of a tile: rows t / 4 and t / 4 + 8 of its warp's 16, two columns
/// of each eight.
template <typename Shape, Ending kEnding>
struct Share {
  static constexpr int kResiduals = kEnding == Ending::kResidual ? Shape::kSums / 2 : 1;

  const Args& args;
  const Place& place;
  int row;  // the first
  int quarter = static_cast<int>(threadIdx.x) % 4;

  __device__ Share(const Args& all, const Place& where, int group)
      : args(all),
        place(where),
        row(where.row + group * 64 + static_cast<int>(threadIdx.x) / 32 % 4 * 16 +
            static_cast<int>(threadIdx.x) % 32 / 4) {}

  __device__ float2 pair_of(const float* given, const float* values, int j, float otherwise) const {
    if (given == nullptr) return make_float2(otherwise, otherwise);
    return *reinterpret_cast<const float2*>(values + 8 * j + quarter * 2);
  }

  /// While the last products run.
  __device__ void load_residuals(uint32_t (&residuals)[kResiduals]) const {
    if constexpr (kEnding == Ending::kResidual) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const bf16* from = place.part->residual + (row + half * 8) * place.part->residual_stride;
#pragma unroll
        for (int j = 0; j < Shape::kColumns / 8; ++j) {
          const int column = place.column + 8 * j + quarter * 2;
          const bool there = row + half * 8 < place.part->rows && column < args.columns;
          residuals[2 * j + half] = there ? *reinterpret_cast<const uint32_t*>(from + column) : 0;
        }
      }
    }
  }

  /// 32 columns at a time, for which the four threads of a row store 16 bytes each.
  __device__ void store(const Tiles<Shape>& tiles, const float (&sums)[Shape::kSums],
                        const uint32_t (&residuals)[kResiduals]) const {
#pragma unroll
    for (int first = 0; first < Shape::kColumns / 8; first += 4) {
      uint32_t words[2][4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int j = first + k;
        const float2 bias = pair_of(place.part->bias, tiles.bias, j, 0.0f);
        const float2 gate = kEnding == Ending::kResidual
                                ? pair_of(place.part->gate, tiles.gate, j, 1.0f)
                                : float2{};
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float* sum = sums + 4 * j + 2 * half;
          const uint32_t residual = kEnding == Ending::kResidual ? residuals[2 * j + half] : 0;
          words[half][k] = finish_pair<kEnding>(sum[0], sum[1], bias, gate, residual);
        }
      }
      const int column = place.column + 8 * (first + quarter);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        transpose_words(words[half]);
        if (row + half * 8 >= place.part->rows || column >= args.columns) continue;
        bf16* to = place.part->out + (row + half * 8) * place.part->out_stride + column;
        *reinterpret_cast<uint4*>(to) =
            make_uint4(words[half][0], words[half][1], words[half][2], words[half][3]);
      }
    }
  }
};

template <typename Shape>
__device__ void issue(float (&sums)[Shape::kSums], const Tiles<Shape>& tiles, int stage, int group,
                      bool add) {
  const uint32_t x = shared_address(tiles.x[stage]) + group * 64 * kRowBytes;
  const uint32_t w = shared_address(tiles.w[stage]);
#pragma unroll
  for (int k = 0; k < kDepth / 16; ++k) {
    product(sums, describe_rows(x + k * 32), describe_rows(w + k * 32), add || k > 0);
  }
}

template <typename Shape, Ending kEnding>
__device__ void consume(const Args& args, Tiles<Shape>& tiles, int group) {
  Ring<Shape::kStages> ring;
  uint32_t columns_parity = 0;
  const uint32_t lane = threadIdx.x % 32;
  // Both blocks copy to both: a stage is free when both have read it.
  const auto release = [&](int stage) {
    if (lane < kCluster) arrive_at(&tiles.empty[stage], lane);
  };
  for_each_work<Shape>(args, [&](const Place& place) {
    const Share<Shape, kEnding> share(args, place, group);
    float sums[Shape::kSums];
    uint32_t residuals[Share<Shape, kEnding>::kResiduals];
    int previous = 0;
    for (int i = 0; i < args.chunks; ++i) {
      wait(&tiles.full[ring.stage], ring.parity);
      begin_products();
      issue(sums, tiles, ring.stage, group, i > 0);
      commit_products();
      wait_products<1>();
      if (i > 0) release(previous);
      previous = ring.stage;
      ring.next();
    }
    share.load_residuals(residuals);
    wait_products<0>();
    pin(sums);
    release(previous);
    wait(&tiles.columns_full, columns_parity);
    columns_parity ^= 1;
    share.store(tiles, sums, residuals);
    __syncwarp();
    if (lane == 0) arrive(&tiles.columns_empty);
  });
}

template <typename Shape>
__device__ void init_barriers(Tiles<Shape>& tiles) {
  constexpr int kWarps = Shape::kGroups * 4;
  for (int i = 0; i < Shape::kStages; ++i) {
    init_barrier(&tiles.full[i], 1);
    init_barrier(&tiles.empty[i], kCluster * kWarps);
  }
  init_barrier(&tiles.columns_full, 1);
  init_barrier(&tiles.columns_empty, kWarps);
  fence_barriers();
}

template <typename Shape, Ending kEnding>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    hopper_linear_kernel(const __grid_constant__ Args args) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ unsigned char shared[];
  auto& tiles =
      *reinterpret_cast<Tiles<Shape>*>((reinterpret_cast<uintptr_t>(shared) + 1023) / 1024 * 1024);
  if (threadIdx.x == 0) init_barriers(tiles);
  sync_cluster();
  if (threadIdx.x < 128) {
    give_registers<kCopyingRegisters>();
    if (threadIdx.x == 0) produce<Shape>(args, tiles);
  } else {
    take_registers<Shape::kRegisters>();
    consume<Shape, kEnding>(args, tiles, static_cast<int>(threadIdx.x) / 128 - 1);
  }
  // The other block may still copy to this one, or arrive here.
  sync_cluster();
#endif
}

int divide_up(int64_t size, int tile) { return static_cast<int>((size + tile - 1) / tile); }

template <typename Shape>
cudaError_t fill(const HopperLinear& linear, Args& args) {
  args.count = static_cast<int>(linear.parts.size());
  args.columns = static_cast<int>(linear.columns);
  args.chunks = divide_up(linear.depth, kDepth);
  const int column_turns = divide_up(linear.columns, Shape::kColumns * Shape::kTilesAside);
  for (int i = 0; i < args.count; ++i) {
    const HopperLinear::Part& from = linear.parts[static_cast<size_t>(i)];
    Part& to = args.parts[i];
    const auto map = [&](CUtensorMap& made, const void* address, int64_t rows, int64_t stride,
                         int64_t box_rows) {
      return make_tensor_map(made, address, {linear.depth, rows, 1}, {stride, stride * rows},
                             {kDepth, box_rows, 1});
    };
    cudaError_t result = map(to.x, from.x, from.rows, from.x_stride, Shape::kCopiedRows);
    if (result != cudaSuccess) return result;
    result = map(to.w, from.weights, linear.columns, linear.depth, Shape::kCopiedColumns);
    if (result != cudaSuccess) return result;
    to.out = static_cast<bf16*>(from.out);
    to.out_stride = from.out_stride;
    to.residual = static_cast<const bf16*>(from.residual);
    to.residual_stride = from.residual_stride;
    to.rows = static_cast<int>(from.rows);
    to.bias = from.bias;
    to.gate = from.gate;
    to.row_turns = divide_up(from.rows, Shape::kRows * Shape::kTilesBelow);
    to.column_turns = column_turns;
    to.first_work = args.works;
    args.works += to.row_turns * column_turns;
  }
  return cudaSuccess;
}

template <typename Shape, Ending kEnding>
cudaError_t launch(const HopperLinear& linear, int multiprocessors, cudaStream_t stream) {
  Args args{};
  cudaError_t result = fill<Shape>(linear, args);
  if (result != cudaSuccess) return result;
  constexpr int kShared = sizeof(Tiles<Shape>) + 1024;
  static_assert(kShared <= 227 * 1024);
  static_assert(Shape::kSums < Shape::kRegisters);
  static_assert(128 * (kCopyingRegisters + Shape::kGroups * Shape::kRegisters) <= 65536);
  const auto kernel = hopper_linear_kernel<Shape, kEnding>;
  result = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  if (result != cudaSuccess) return result;
  const int clusters = std::min(args.works, multiprocessors / kCluster);
  // Said here and not at the kernel: compilers for older GPUs know no clusters.
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {kCluster, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(clusters * kCluster));
  config.blockDim = dim3(Shape::kThreads);
  config.dynamicSmemBytes = kShared;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, args);
}

using Launch = cudaError_t (*)(const HopperLinear&, int, cudaStream_t);

template <typename Shape>
Launch launch_of(const HopperLinear& linear) {
  if (linear.parts[0].residual != nullptr) return launch<Shape, Ending::kResidual>;
  return linear.gelu ? launch<Shape, Ending::kGelu> : launch<Shape, Ending::kBias>;
}

/// What a cluster computes at a time, and how much longer than others it takes for an element.
struct Choice {
  int rows, columns;
  double extra;
  Launch (*launch)(const HopperLinear&);
};
template <int kGroups, int kColumns, int kStages, Shared kShared>
constexpr Choice choice(double extra) {
  using Shape = TileShape<kGroups, kColumns, kStages, kShared>;
  return {Shape::kRows * Shape::kTilesBelow, kColumns * Shape::kTilesAside, extra,
          launch_of<Shape>};
}
constexpr Choice kChoices[kLinearTiles] = {
    choice<3, 192, 4, Shared::kRows>(1.0), choice<3, 192, 4, Shared::kColumns>(1.0),
    choice<2, 256, 4, Shared::kColumns>(1.0), choice<2, 192, 5, Shared::kColumns>(1.02),
    choice<2, 128, 6, Shared::kColumns>(1.16)};

/// What the tiles take, in elements of the result that a cluster computes one after the other.
/// While some wait in the last turn the others run faster, for the GPU is at its power limit.
double elements(const HopperLinear& linear, const Choice& tile, int multiprocessors) {
  const int clusters = multiprocessors / kCluster;
  int64_t works = 0;
  for (const HopperLinear::Part& part : linear.parts) {
    works += divide_up(part.rows, tile.rows) * divide_up(linear.columns, tile.columns);
  }
  const double turns =
      0.75 * divide_up(works, clusters) + 0.25 * static_cast<double>(works) / clusters;
  return tile.extra * turns * tile.rows * tile.columns;
}

const Choice& best_choice(const HopperLinear& linear, int multiprocessors) {
  return *std::min_element(
      std::begin(kChoices), std::end(kChoices), [&](const Choice& a, const Choice& b) {
        return elements(linear, a, multiprocessors) < elements(linear, b, multiprocessors);
      });
}

}  // namespace

bool hopper_linear_supports(const HopperLinear& linear) {
  const auto aligned = [](const void* address, int64_t stride) {
    return reinterpret_cast<uintptr_t>(address) % 16 == 0 && stride % 8 == 0;
  };
  return linear.depth % 8 == 0 && linear.columns % 8 == 0 && !linear.parts.empty() &&
         linear.parts.size() <= kMaxLinearParts &&
         std::all_of(linear.parts.begin(), linear.parts.end(), [&](const auto& part) {
           return part.rows > 0 && aligned(part.x, part.x_stride) &&
                  aligned(part.weights, linear.depth) && aligned(part.out, part.out_stride) &&
                  aligned(part.residual, part.residual_stride) && aligned(part.bias, 0) &&
                  aligned(part.gate, 0) &&
                  (part.residual == nullptr) == (linear.parts[0].residual == nullptr) &&
                  (part.residual != nullptr || part.gate == nullptr) &&
                  !(part.residual != nullptr && linear.gelu);
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
