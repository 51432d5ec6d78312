#include "ops/cuda/kernels/device.cuh"
#include "ops/cuda/kernels/hopper.cuh"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/kernels/launch.cuh"
#include "ops/cuda/kernels/tensor_map.h"

/// bf16 convolutions on Hopper as implicit products: for each tap the tensor copy engine loads a
/// box of pixels, shifted by the tap and zero outside the image. A block takes tiles of 16 x 16
/// pixels by 128 output channels; a producer warp copies, and two consumer warpgroups compute 128
/// pixels each.
namespace flux::cuda {
namespace {

using namespace hopper;

constexpr int kSide = 16;  // of a tile of pixels
constexpr int kPixels = kSide * kSide;
constexpr int kColumns = 128;  // output channels of a tile
constexpr int kDepth = 64;     // input channels at a time
constexpr int kStages = 4;
constexpr int kGroups = 2;
constexpr int kThreads = (1 + kGroups) * 128;
constexpr int kPixelBytes = kPixels * kDepth * 2;
constexpr int kWeightBytes = kColumns * kDepth * 2;

struct SharedTiles {
  unsigned char pixels[kStages][kPixelBytes];
  unsigned char weights[kStages][kWeightBytes];
  uint64_t full[kStages], empty[kStages];
};

struct Args {
  CUtensorMap x;        // [height, width, channels]
  CUtensorMap weights;  // [1, out_channels, taps x channels]
  HopperConvolution conv;

  __device__ int tiles_y() const { return (conv.height + kSide - 1) / kSide; }
  __device__ int tiles_x() const { return (conv.width + kSide - 1) / kSide; }
  __device__ int tiles_n() const { return (conv.out_channels + kColumns - 1) / kColumns; }
  __device__ int tiles() const { return tiles_y() * tiles_x() * tiles_n(); }
  /// Stages that a tile's depth takes.
  __device__ int stages() const { return conv.taps * (conv.channels / kDepth); }
};

/// The place of a tile in the result.
struct TileCoord {
  int y, x, column;

  __device__ TileCoord(const Args& args, int index) {
    column = index % args.tiles_n() * kColumns;
    x = index / args.tiles_n() % args.tiles_x() * kSide;
    y = index / args.tiles_n() / args.tiles_x() * kSide;
  }
};

[[maybe_unused]] __device__ void produce(const Args& args, SharedTiles& tiles) {
  Ring<kStages> ring;
  const int chunks = args.conv.channels / kDepth;
  for (int index = blockIdx.x; index < args.tiles(); index += gridDim.x) {
    const TileCoord tile(args, index);
    for (int tap = 0; tap < args.conv.taps; ++tap) {
      for (int chunk = 0; chunk < chunks; ++chunk) {
        uint64_t* full = &tiles.full[ring.stage];
        wait(&tiles.empty[ring.stage], ring.parity ^ 1);
        expect(full, kPixelBytes + kWeightBytes);
        copy_box(tiles.pixels[ring.stage], args.x, full, chunk * kDepth, tile.x + args.conv.dx[tap],
                 tile.y + args.conv.dy[tap]);
        copy_box(tiles.weights[ring.stage], args.weights, full, (tap * chunks + chunk) * kDepth,
                 tile.column, 0);
        ring.next();
      }
    }
  }
}

/// Stores the thread's columns of one pixel, two of each eight, element by element.
__device__ void store_elements(const HopperConvolution& conv, const float (&sums)[64], int half,
                               int64_t pixel, int first_column) {
  const auto* residual = static_cast<const bf16*>(conv.residual);
#pragma unroll
  for (int i = 0; i < kColumns / 4; ++i) {
    const int column = first_column + i / 2 * 8 + i % 2;
    if (column >= conv.out_channels) continue;
    const int64_t at = pixel * conv.out_channels + column;
    float value = sums[i / 2 * 4 + 2 * half + i % 2] + conv.bias[column];
    if (residual) value += to_float(residual[at]);
    static_cast<bf16*>(conv.out)[at] = from_float<bf16>(value);
  }
}

/// Stores a pixel's columns together with the three neighbouring threads, 16 bytes a thread at a
/// time. All four call it; `there` is false for a pixel outside the image.
__device__ void store_vectors(const HopperConvolution& conv, const float (&sums)[64], int half,
                              int64_t pixel, bool there, int first_column) {
  const int t = static_cast<int>(threadIdx.x) % 4;
  const int64_t at = pixel * conv.out_channels + first_column + 8 * t;
  const auto inside = [&](int i) {
    return there && first_column + 32 * i + 8 * t < conv.out_channels;
  };
  uint32_t extra[kColumns / 32][4] = {};  // loaded all at once, before the first is used
  if (conv.residual) {
#pragma unroll
    for (int i = 0; i < kColumns / 32; ++i) {
      if (!inside(i)) continue;
      const auto* from = static_cast<const bf16*>(conv.residual) + at + 32 * i;
      const uint4 loaded = *reinterpret_cast<const uint4*>(from);
      extra[i][0] = loaded.x, extra[i][1] = loaded.y, extra[i][2] = loaded.z,
      extra[i][3] = loaded.w;
    }
  }
#pragma unroll
  for (int i = 0; i < kColumns / 32; ++i) {
    transpose_words(extra[i]);
    uint32_t words[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int column = min(first_column + 32 * i + 8 * j + 2 * t, conv.out_channels - 2);
      const auto both = *reinterpret_cast<const __nv_bfloat162*>(&extra[i][j]);
      const float* pair = sums + 16 * i + 4 * j + 2 * half;
      words[j] = pack_pair(pair[0] + conv.bias[column] + __low2float(both),
                           pair[1] + conv.bias[column + 1] + __high2float(both));
    }
    transpose_words(words);
    if (!inside(i)) continue;
    auto* to = static_cast<bf16*>(conv.out) + at + 32 * i;
    *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
  }
}

__device__ void store_tile(const Args& args, const TileCoord& tile, int group,
                           const float (&sums)[2][64]) {
  const HopperConvolution& conv = args.conv;
  const int thread = static_cast<int>(threadIdx.x) % 128;
#pragma unroll
  for (int i = 0; i < 4; ++i) {  // the four rows of a thread
    const int row = group * 128 + i / 2 * 64 + thread / 32 * 16 + thread % 32 / 4 + i % 2 * 8;
    const int y = tile.y + row / kSide;
    const int x = tile.x + row % kSide;
    const bool there = y < conv.height && x < conv.width;
    const int64_t pixel =
        static_cast<int64_t>(y * conv.out_step + conv.out_y) * conv.width * conv.out_step +
        x * conv.out_step + conv.out_x;
    if (conv.out_channels % 8 == 0) {
      store_vectors(conv, sums[i / 2], i % 2, pixel, there, tile.column);
    } else if (there) {
      store_elements(conv, sums[i / 2], i % 2, pixel, tile.column + thread % 4 * 2);
    }
  }
}

__device__ void issue(float (&sums)[2][64], Descriptor pixels, Descriptor weights) {
#pragma unroll
  for (int k = 0; k < kDepth / 16; ++k) {
    product(sums[0], pixels.after(k * 32), weights.after(k * 32), true);
    product(sums[1], pixels.after(64 * 128 + k * 32), weights.after(k * 32), true);
  }
}

[[maybe_unused]] __device__ void consume(const Args& args, SharedTiles& tiles, int group) {
  Ring<kStages> ring;
  const Descriptor first_pixels = Descriptor::rows(tiles.pixels[0] + group * 128 * 128);
  const Descriptor first_weights = Descriptor::rows(tiles.weights[0]);
  const auto release = [&](int stage) {
    if (threadIdx.x % 32 == 0) arrive(&tiles.empty[stage]);
  };
  for (int index = blockIdx.x; index < args.tiles(); index += gridDim.x) {
    float sums[2][64] = {};
    int previous = 0;
    for (int stage = 0; stage < args.stages(); ++stage) {
      wait(&tiles.full[ring.stage], ring.parity);
      begin_products();
      issue(sums, first_pixels.after(ring.stage * kPixelBytes),
            first_weights.after(ring.stage * kWeightBytes));
      commit_products();
      wait_products<1>();
      if (stage > 0) release(previous);
      previous = ring.stage;
      ring.next();
    }
    wait_products<0>();
    pin(sums[0]);
    pin(sums[1]);
    release(previous);
    store_tile(args, TileCoord(args, index), group, sums);
  }
}

__global__ void __launch_bounds__(kThreads, 1)
    hopper_convolution_kernel(const __grid_constant__ Args args) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  auto& tiles = shared_tiles<SharedTiles>();
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      init_barrier(&tiles.full[i], 1);
      init_barrier(&tiles.empty[i], kGroups * 4);
    }
    fence_barriers();
  }
  __syncthreads();
  begin_kernel();
  if (threadIdx.x < 128) {
    give_registers<24>();
    if (threadIdx.x == 0) produce(args, tiles);
  } else {
    take_registers<240>();
    consume(args, tiles, warpgroup() - 1);
  }
#endif
}

}  // namespace

bool hopper_convolution_supports(int64_t channels) { return channels % kDepth == 0; }

cudaError_t hopper_convolution(const HopperConvolution& conv, int multiprocessors,
                               cudaStream_t stream) {
  Args args{};
  args.conv = conv;
  const int64_t row = static_cast<int64_t>(conv.width) * conv.channels;
  const int64_t depth = static_cast<int64_t>(conv.taps) * conv.channels;
  cudaError_t result =
      make_tensor_map(args.x, MapElement::kBf16, conv.x, {conv.channels, conv.width, conv.height},
                      {conv.channels, row}, {kDepth, kSide, kSide});
  if (result != cudaSuccess) return result;
  result =
      make_tensor_map(args.weights, MapElement::kBf16, conv.weights, {depth, conv.out_channels, 1},
                      {depth, depth * conv.out_channels}, {kDepth, kColumns, 1});
  if (result != cudaSuccess) return result;
  constexpr int kShared = sizeof(SharedTiles) + 1024;
  const auto tiles = [](int size, int tile) { return (size + tile - 1) / tile; };
  const int count =
      tiles(conv.height, kSide) * tiles(conv.width, kSide) * tiles(conv.out_channels, kColumns);
  const auto blocks = static_cast<unsigned>(std::min(count, multiprocessors));
  return launch_kernel(hopper_convolution_kernel, {blocks, kThreads, stream, kShared}, args);
}

}  // namespace flux::cuda
