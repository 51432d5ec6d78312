#include "ops/cpu/kernels/winograd_kernels.h"

#include "ops/cpu/kernels/operands.h"

/// Convolution with 3x3 kernels as F(4x4, 3x3) of Lavin and Gray (2016): each 4x4 patch of results
/// comes from a 6x6 patch of the input by 36 products for each pair of channels instead of 144.
/// Input patches, kernels and results are transformed (the paper's B^T d B, G g G^T and A^T m A),
/// so that the work in between is 36 matrix products, one for each position in the input patch.
///
/// A patch of an image upsampled 2x by nearest neighbour has equal rows 1 and 2 and equal rows 3
/// and 4, so that row 2 of B^T d vanishes, and column 2 likewise: 25 products are left.
namespace flux::cpu::FLUX_ISA {
namespace {

constexpr int kPatch = 4;
constexpr int kSide = kPatch + 2;
constexpr int kPositions = kSide * kSide;
constexpr int64_t kTaps = 9;
constexpr int64_t kTileHeight = 12;
constexpr int64_t kPatchesAcross = kConvTileWidth / kPatch;
constexpr int64_t kPatches = kTileHeight / kPatch * kPatchesAcross;
constexpr int64_t kDepth = 128;  // input channels multiplied together
/// Distance between patches; not a power of two, so that the rows that a micro-kernel reads lie in
/// different cache sets.
constexpr int64_t kPatchStride = kDepth + 16;
constexpr int64_t kGroup = 64;  // output channels transformed back together
static_assert(kPatches % kRows == 0 && kGroup % kColumns == 0);

constexpr bool vanishes(bool upsampled, int position) {
  return upsampled && (position / kSide == 2 || position % kSide == 2);
}

int64_t panels(int64_t out) { return (out + kColumns - 1) / kColumns; }
int64_t blocks(int64_t in) { return (in + kDepth - 1) / kDepth; }
int64_t block_channels(int64_t in, int64_t begin) {
  return in - begin < kDepth ? in - begin : kDepth;
}

/// Layout of taps: [panels of kColumns output channels][kTaps][in][kColumns]; columns past the last
/// are zero.
int64_t tap_elements(int64_t in, int64_t out) { return panels(out) * kTaps * in * kColumns; }

/// Size of a transformed panel, [kPositions][in][kColumns].
int64_t panel_floats(int64_t in) { return kPositions * in * kColumns; }

/// Scratch of a tile: the transformed input, [blocks of kDepth channels][kPositions][kPatches]
/// [kPatchStride], then the products of a group, [kPositions][kPatches][kGroup].
int64_t input_floats(int64_t in) { return blocks(in) * kPositions * kPatches * kPatchStride; }
int64_t scratch_floats(int64_t in) { return input_floats(in) + kPositions * kPatches * kGroup; }

template <typename T>
void pack(const T* plain, int64_t in, int64_t out, T* taps) {
  for (int64_t i = 0; i < tap_elements(in, out); ++i) taps[i] = T{};
  for (int64_t o = 0; o < out; ++o) {
    T* column = taps + o / kColumns * kTaps * in * kColumns + o % kColumns;
    for (int64_t i = 0; i < in; ++i) {
      for (int64_t tap = 0; tap < kTaps; ++tap) {
        column[(tap * in + i) * kColumns] = plain[(o * in + i) * kTaps + tap];
      }
    }
  }
}

/// Computes G g: three vectors become kSide.
FLUX_INLINE void transform_taps(const Vec (&g)[3], Vec (&u)[kSide]) {
  const Vec ends = g[0] + g[2];
  const Vec far = g[0] + g[2] * 4.0f;
  u[0] = g[0] * 0.25f;
  u[1] = (ends + g[1]) * (-1.0f / 6.0f);
  u[2] = (ends - g[1]) * (-1.0f / 6.0f);
  u[3] = (far + g[1] * 2.0f) * (1.0f / 24.0f);
  u[4] = (far - g[1] * 2.0f) * (1.0f / 24.0f);
  u[5] = g[2];
}

/// Computes G g G^T for kLanes output channels.
template <typename T>
FLUX_INLINE void transform_kernel(const T* taps, int64_t tap_stride, float* to,
                                  int64_t position_stride) {
  Vec half[kSide][3];
  FLUX_UNROLL
  for (int x = 0; x < 3; ++x) {
    const Vec g[3] = {load(taps + x * tap_stride), load(taps + (3 + x) * tap_stride),
                      load(taps + (6 + x) * tap_stride)};
    Vec u[kSide];
    transform_taps(g, u);
    FLUX_UNROLL
    for (int y = 0; y < kSide; ++y) half[y][x] = u[y];
  }
  FLUX_UNROLL
  for (int y = 0; y < kSide; ++y) {
    Vec u[kSide];
    transform_taps(half[y], u);
    FLUX_UNROLL
    for (int x = 0; x < kSide; ++x) store(to + (y * kSide + x) * position_stride, u[x]);
  }
}

template <typename T>
void transform_panel(const T* taps, int64_t in, float* kernels) {
  const int64_t plane = in * kColumns;
  for (int64_t i = 0; i < plane; i += kLanes) {
    transform_kernel(taps + i, plane, kernels + i, plane);
  }
}

/// Computes B^T d in place, over kSide vectors that are `step` apart.
FLUX_INLINE void transform_line(Vec* d, int step) {
  const Vec first = d[0] * 4.0f - d[2 * step] * 5.0f + d[4 * step];
  const Vec last = d[step] * 4.0f - d[3 * step] * 5.0f + d[5 * step];
  const Vec even = d[4 * step] - d[2 * step] * 4.0f;
  const Vec odd = d[3 * step] - d[step] * 4.0f;
  const Vec even_near = d[4 * step] - d[2 * step];
  const Vec odd_near = (d[3 * step] - d[step]) * 2.0f;
  d[0] = first;
  d[step] = even + odd;
  d[2 * step] = even - odd;
  d[3 * step] = even_near + odd_near;
  d[4 * step] = even_near - odd_near;
  d[5 * step] = last;
}

/// Computes B^T d B of the patch whose first pixel is `from`, for the channels of a block.
template <bool kUpsampled>
FLUX_INLINE void transform_patch(const float* from, int64_t in, int64_t channels, float* to) {
  for_each_vec(channels, [&](int64_t c, auto lanes) {
    Vec d[kPositions];
    FLUX_UNROLL
    for (int x = 0; x < kSide; ++x) {
      FLUX_UNROLL
      for (int y = 0; y < kSide; ++y) {
        d[y * kSide + x] = load(from + (y * (kConvTileWidth + 2) + x) * in + c, lanes);
      }
      transform_line(d + x, kSide);
    }
    FLUX_UNROLL
    for (int y = 0; y < kSide; ++y) {
      transform_line(d + kSide * y, 1);
      FLUX_UNROLL
      for (int x = 0; x < kSide; ++x) {
        const int i = y * kSide + x;
        if (!vanishes(kUpsampled, i)) store(to + i * kPatches * kPatchStride + c, d[i], lanes);
      }
    }
  });
}

template <bool kUpsampled>
void transform_input(const WinogradTile& tile) {
  float* to = tile.scratch;
  for (int64_t begin = 0; begin < tile.in; begin += kDepth) {
    for (int64_t patch = 0; patch < kPatches; ++patch) {
      const int64_t y = patch / kPatchesAcross * kPatch;
      const int64_t x = patch % kPatchesAcross * kPatch;
      transform_patch<kUpsampled>(tile.input + (y * (kConvTileWidth + 2) + x) * tile.in + begin,
                                  tile.in, block_channels(tile.in, begin),
                                  to + patch * kPatchStride);
    }
    to += kPositions * kPatches * kPatchStride;
  }
}

/// Multiplies all patches with one panel of kernels, position by position.
template <bool kUpsampled>
void multiply(const WinogradTile& tile, const float* panel, float* products) {
  float ones[kRows];
  for (float& one : ones) one = 1.0f;
  for (int position = 0; position < kPositions; ++position, products += kPatches * kGroup) {
    if (vanishes(kUpsampled, position)) continue;
    const float* input = tile.scratch + position * kPatches * kPatchStride;
    const float* kernel = panel + position * tile.in * kColumns;
    for (int64_t begin = 0; begin < tile.in; begin += kDepth) {
      for (int64_t patch = 0; patch < kPatches; patch += kRows) {
        micro_kernel<kPatchStride, 1>(input + patch * kPatchStride, kernel + begin * kColumns,
                                      block_channels(tile.in, begin), begin == 0 ? nullptr : ones,
                                      products + patch * kGroup, kGroup);
      }
      input += kPositions * kPatches * kPatchStride;
    }
  }
}

/// Computes A^T m: kSide vectors become kPatch.
FLUX_INLINE void transform_products(const Vec (&m)[kSide], Vec (&y)[kPatch]) {
  const Vec sum = m[1] + m[2];
  const Vec difference = m[1] - m[2];
  const Vec far_sum = m[3] + m[4];
  const Vec far_difference = m[3] - m[4];
  y[0] = m[0] + sum + far_sum;
  y[1] = difference + far_difference * 2.0f;
  y[2] = sum + far_sum * 4.0f;
  y[3] = difference + far_difference * 8.0f + m[5];
}

/// Computes A^T m A of one patch, for the channels of a group.
template <bool kUpsampled>
FLUX_INLINE void transform_back(const float* products, int64_t channels, int64_t out, float* to) {
  for_each_vec(channels, [&](int64_t c, auto lanes) {
    Vec half[kPatch][kSide];
    FLUX_UNROLL
    for (int x = 0; x < kSide; ++x) {
      Vec m[kSide];
      FLUX_UNROLL
      for (int y = 0; y < kSide; ++y) {
        const int i = y * kSide + x;
        m[y] = vanishes(kUpsampled, i) ? Vec{} : load(products + i * kPatches * kGroup + c);
      }
      Vec column[kPatch];
      transform_products(m, column);
      FLUX_UNROLL
      for (int y = 0; y < kPatch; ++y) half[y][x] = column[y];
    }
    FLUX_UNROLL
    for (int y = 0; y < kPatch; ++y) {
      Vec line[kPatch];
      transform_products(half[y], line);
      FLUX_UNROLL
      for (int x = 0; x < kPatch; ++x)
        store(to + (y * kConvTileWidth + x) * out + c, line[x], lanes);
    }
  });
}

template <bool kUpsampled>
void run_tile(const WinogradTile& tile) {
  transform_input<kUpsampled>(tile);
  float* products = tile.scratch + input_floats(tile.in);
  const float* panel = tile.kernels;
  for (int64_t begin = 0; begin < tile.out; begin += kGroup) {
    const int64_t channels = tile.out - begin < kGroup ? tile.out - begin : kGroup;
    for (int64_t column = 0; column < channels; column += kColumns) {
      multiply<kUpsampled>(tile, panel, products + column);
      panel += panel_floats(tile.in);
    }
    for (int64_t patch = 0; patch < kPatches; ++patch) {
      const int64_t y = patch / kPatchesAcross * kPatch;
      const int64_t x = patch % kPatchesAcross * kPatch;
      transform_back<kUpsampled>(products + patch * kGroup, channels, tile.out,
                                 tile.sums + (y * kConvTileWidth + x) * tile.out + begin);
    }
  }
}

void run(const WinogradTile& tile) {
  if (tile.upsampled) {
    run_tile<true>(tile);
  } else {
    run_tile<false>(tile);
  }
}

}  // namespace

WinogradKernels winograd_kernels() {
  return {kTileHeight,
          kColumns,
          tap_elements,
          panel_floats,
          scratch_floats,
          pack<float>,
          pack<BFloat16>,
          transform_panel<float>,
          transform_panel<BFloat16>,
          run};
}

}  // namespace flux::cpu::FLUX_ISA
