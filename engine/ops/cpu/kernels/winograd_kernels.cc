#include "ops/cpu/kernels/winograd_kernels.h"

#include "ops/cpu/kernels/operands.h"

/// Convolution with 3x3 kernels as F(2x2, 3x3) of Lavin and Gray (2016): each 2x2 patch of results
/// comes from a 4x4 patch of the input by 16 products for each pair of channels instead of 36.
/// Input patches, kernels and results are transformed so that the work in between is 16 matrix
/// products, one for each position in the 4x4 patch.
namespace flux::cpu::FLUX_ISA {
namespace {

constexpr int64_t kPositions = 16;
constexpr int64_t kTileHeight = 6;
constexpr int64_t kTileWidth = 32;
constexpr int64_t kPatchesAcross = kTileWidth / 2;
constexpr int64_t kPatches = kTileHeight / 2 * kPatchesAcross;
constexpr int64_t kDepth = 128;  // input channels multiplied together
/// Between patches. Not a power of two, for the rows that a micro-kernel reads to lie in different
/// cache sets.
constexpr int64_t kPatchStride = kDepth + 16;
constexpr int64_t kGroup = 64;  // output channels transformed back together
static_assert(kPatches % kRows == 0 && kGroup % kColumns == 0);

constexpr int64_t ceil_div(int64_t n, int64_t divisor) { return (n + divisor - 1) / divisor; }

/// Packed kernels: [panels of kColumns output channels][kPositions][in][kColumns].
int64_t panel_floats(int64_t in) { return kPositions * in * kColumns; }

int64_t packed_floats(int64_t in, int64_t out) {
  return ceil_div(out, kColumns) * panel_floats(in);
}

/// Transformed input: [blocks of kDepth channels][kPositions][kPatches][kPatchStride]; then the
/// products of a group: [kPositions][kPatches][kGroup].
int64_t input_floats(int64_t in) {
  return ceil_div(in, kDepth) * kPositions * kPatches * kPatchStride;
}

int64_t scratch_floats(int64_t in) { return input_floats(in) + kPositions * kPatches * kGroup; }

/// G g G^T for one 3x3 kernel, in double for one rounding in all.
void transform_kernel(const float* g, double (&u)[kPositions]) {
  double half[4][3];
  for (int x = 0; x < 3; ++x) {
    const double a = g[x];
    const double b = g[3 + x];
    const double c = g[6 + x];
    half[0][x] = a;
    half[1][x] = 0.5 * (a + b + c);
    half[2][x] = 0.5 * (a - b + c);
    half[3][x] = c;
  }
  for (int y = 0; y < 4; ++y) {
    const auto& [a, b, c] = half[y];
    u[4 * y] = a;
    u[4 * y + 1] = 0.5 * (a + b + c);
    u[4 * y + 2] = 0.5 * (a - b + c);
    u[4 * y + 3] = c;
  }
}

void pack(const float* plain, int64_t in, int64_t out, float* packed) {
  for (int64_t i = 0; i < packed_floats(in, out); ++i) packed[i] = 0.0f;
  for (int64_t o = 0; o < out; ++o) {
    float* column = packed + o / kColumns * panel_floats(in) + o % kColumns;
    for (int64_t i = 0; i < in; ++i) {
      double u[kPositions];
      transform_kernel(plain + (o * in + i) * 9, u);
      for (int64_t position = 0; position < kPositions; ++position) {
        column[(position * in + i) * kColumns] = static_cast<float>(u[position]);
      }
    }
  }
}

/// B^T d over four vectors, `step` apart.
FLUX_INLINE void transform_four(Vec* d, int step) {
  const Vec a = d[0] - d[2 * step];
  const Vec b = d[step] + d[2 * step];
  const Vec c = d[2 * step] - d[step];
  const Vec e = d[step] - d[3 * step];
  d[0] = a;
  d[step] = b;
  d[2 * step] = c;
  d[3 * step] = e;
}

/// B^T d B of the patch whose first pixel is `from`, for the channels of a block.
FLUX_INLINE void transform_patch(const float* from, int64_t in, int64_t channels, float* to) {
  for_each_vec(channels, [&](int64_t c, auto part) {
    Vec d[kPositions];
    FLUX_UNROLL
    for (int i = 0; i < kPositions; ++i) {
      d[i] = load(from + ((i / 4) * (kTileWidth + 2) + i % 4) * in + c, part);
    }
    FLUX_UNROLL
    for (int i = 0; i < 4; ++i) transform_four(d + i, 4);
    FLUX_UNROLL
    for (int i = 0; i < 4; ++i) transform_four(d + 4 * i, 1);
    FLUX_UNROLL
    for (int i = 0; i < kPositions; ++i) store(to + i * kPatches * kPatchStride + c, d[i], part);
  });
}

void transform_input(const WinogradTile& tile) {
  float* to = tile.scratch;
  for (int64_t begin = 0; begin < tile.in; begin += kDepth) {
    const int64_t channels = tile.in - begin < kDepth ? tile.in - begin : kDepth;
    for (int64_t patch = 0; patch < kPatches; ++patch) {
      const int64_t y = 2 * (patch / kPatchesAcross);
      const int64_t x = 2 * (patch % kPatchesAcross);
      const float* from = tile.input + (y * (kTileWidth + 2) + x) * tile.in + begin;
      transform_patch(from, tile.in, channels, to + patch * kPatchStride);
    }
    to += kPositions * kPatches * kPatchStride;
  }
}

/// The 16 products of all patches with one panel of kernels.
void multiply(const WinogradTile& tile, const float* panel, float* products) {
  static constexpr auto kOnes = [] {
    struct {
      float value[kRows];
    } ones{};
    for (float& one : ones.value) one = 1.0f;
    return ones;
  }();
  for (int64_t position = 0; position < kPositions; ++position) {
    const float* input = tile.scratch + position * kPatches * kPatchStride;
    for (int64_t begin = 0; begin < tile.in; begin += kDepth) {
      const int64_t channels = tile.in - begin < kDepth ? tile.in - begin : kDepth;
      for (int64_t patch = 0; patch < kPatches; patch += kRows) {
        micro_kernel<kPatchStride, 1>(input + patch * kPatchStride, panel, channels,
                                      begin == 0 ? nullptr : kOnes.value, products + patch * kGroup,
                                      kGroup);
      }
      input += kPositions * kPatches * kPatchStride;
      panel += channels * kColumns;
    }
    products += kPatches * kGroup;
  }
}

/// A^T m A of one patch, for the channels of a group.
FLUX_INLINE void transform_back(const float* products, int64_t channels, int64_t out, float* to) {
  for_each_vec(channels, [&](int64_t c, auto part) {
    Vec half[2][4];
    FLUX_UNROLL
    for (int x = 0; x < 4; ++x) {
      Vec m[4];
      FLUX_UNROLL
      for (int y = 0; y < 4; ++y) m[y] = load(products + (4 * y + x) * kPatches * kGroup + c);
      half[0][x] = m[0] + m[1] + m[2];
      half[1][x] = m[1] - m[2] - m[3];
    }
    FLUX_UNROLL
    for (int y = 0; y < 2; ++y) {
      const Vec* h = half[y];
      store(to + y * kTileWidth * out + c, h[0] + h[1] + h[2], part);
      store(to + (y * kTileWidth + 1) * out + c, h[1] - h[2] - h[3], part);
    }
  });
}

void run(const WinogradTile& tile) {
  transform_input(tile);
  float* products = tile.scratch + input_floats(tile.in);
  const float* panel = tile.weights;
  for (int64_t begin = 0; begin < tile.out; begin += kGroup) {
    const int64_t channels = tile.out - begin < kGroup ? tile.out - begin : kGroup;
    for (int64_t column = 0; column < channels; column += kColumns) {
      multiply(tile, panel, products + column);
      panel += panel_floats(tile.in);
    }
    for (int64_t patch = 0; patch < kPatches; ++patch) {
      const int64_t y = 2 * (patch / kPatchesAcross);
      const int64_t x = 2 * (patch % kPatchesAcross);
      transform_back(products + patch * kGroup, channels, tile.out,
                     tile.sums + (y * kTileWidth + x) * tile.out + begin);
    }
  }
}

}  // namespace

WinogradKernels winograd_kernels() {
  return {kTileHeight, kTileWidth, packed_floats, scratch_floats, pack, run};
}

}  // namespace flux::cpu::FLUX_ISA
