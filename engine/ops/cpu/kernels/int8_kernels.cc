#include "ops/cpu/kernels/int8_kernels.h"

#if defined(__AVX512VNNI__)
#include "ops/cpu/kernels/epilogue.h"
#include "ops/cpu/kernels/int8_blocks.h"
#include "ops/cpu/kernels/operands.h"
#endif

/// Products of encoded weights and activations rounded to int8, by the processor's dot products of
/// four unsigned and four signed bytes. Both operands are as ggml has them: integers with a scale
/// (weights also a minimum) for each block of 32, or weights for each 16. The integers' dot product
/// over a block is exact; sums of blocks are floats, taken in the order of the depth.
namespace flux::cpu::FLUX_ISA {

#if defined(__AVX512VNNI__)
namespace {

using VecInt = int32_t __attribute__((vector_size(64)));

static_assert(kInt8Columns == 2 * kLanes);

FLUX_INLINE VecInt dot_product(VecInt sum, VecInt weights, VecInt x) {
  return (VecInt)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weights, (__m512i)x);
}

FLUX_INLINE VecInt load_words(const uint8_t (*from)[4]) {
  VecInt value;
  __builtin_memcpy(&value, from, sizeof(value));
  return value;
}

/// Four bytes in each lane.
FLUX_INLINE VecInt splat_word(const int8_t* from) {
  int32_t word;
  __builtin_memcpy(&word, from, sizeof(word));
  return word - VecInt{};
}

FLUX_INLINE Vec to_float(VecInt value) { return __builtin_convertvector(value, Vec); }

/// Combines the lanes to one.
template <typename F>
FLUX_INLINE int32_t reduce(VecInt v, const F& f) {
  v = f(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
  v = f(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3));
  v = f(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1));
  return f(v, __builtin_shufflevector(v, v, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0))[0];
}

void quantize_block(const BFloat16* x, Int8Row& row, int64_t block) {
  const Vec low = load(x);
  const Vec high = load(x + kLanes);
  // As integers, so that a NaN is the largest: the scale, and with it the result, becomes NaN.
  constexpr int32_t kMagnitude = 0x7fffffff;
  const auto larger = [](VecInt a, VecInt b) { return a > b ? a : b; };
  const float largest = __builtin_bit_cast(
      float, reduce(larger((VecInt)low & kMagnitude, (VecInt)high & kMagnitude), larger));
  const float factor = largest > 0 ? 127.0f / largest : 0.0f;
  // Where a value is not finite the scale says so, and the integers are zeros.
  const __mmask16 lanes = largest < __builtin_inff() ? kAllLanes : __mmask16{0};
  const __m512i first = _mm512_maskz_cvtps_epi32(lanes, (__m512)(low * factor));
  const __m512i second = _mm512_maskz_cvtps_epi32(lanes, (__m512)(high * factor));
  int8_t* values = row.values + block * kInt8Block;
  _mm_storeu_si128((__m128i*)values, _mm512_maskz_cvtsepi32_epi8(kAllLanes, first));
  _mm_storeu_si128((__m128i*)(values + kLanes), _mm512_maskz_cvtsepi32_epi8(kAllLanes, second));
  const auto add = [](VecInt a, VecInt b) { return a + b; };
  const int32_t late = reduce((VecInt)second, add);
  const int32_t sum = reduce((VecInt)first, add) + late;
  const float scale = largest / 127.0f;
  row.scales[block] = scale;
  row.sums[block] = scale * static_cast<float>(sum);
  row.starts[block] = -128 * sum;
  row.late_sums[block] = scale * static_cast<float>(late);
  row.late_starts[block] = -128 * late;
}

void quantize(const BFloat16* x, int64_t n, Int8Row* slices, int64_t stride) {
  for (int64_t i = 0; i < n; i += kInt8Block) {
    quantize_block(x + i, slices[i / kInt8Slice * stride], i % kInt8Slice / kInt8Block);
  }
}

int64_t scaled_values(Encoding encoding) { return block_unpacker(encoding).scaled; }

void unpack(const Encoding* encodings, const uint8_t* const* columns, int64_t begin, int64_t n,
            Int8Panel* panel) {
  alignas(64) uint8_t weights[kLanes][kInt8Slice];
  panel->has_minima = false;
  for (int64_t first = 0; first < kInt8Columns; first += kLanes) {
    const float* words[kLanes];  // four integers each; moved, never computed with
    for (int64_t i = 0; i < kLanes; ++i) {
      const EncodingInfo& info = info_of(encodings[first + i]);
      const BlockUnpacker unpacker = block_unpacker(info.encoding);
      const uint8_t* block = columns[first + i] + begin / info.block_values * info.block_bytes;
      for (int64_t at = 0; at < n; at += info.block_values, block += info.block_bytes) {
        const int64_t index = at / unpacker.scaled;
        unpacker.unpack(block, weights[i] + at, &panel->scales[index][first + i],
                        &panel->minima[index][first + i]);
      }
      panel->block = unpacker.scaled;
      panel->has_minima |= unpacker.has_minima;
      words[i] = reinterpret_cast<const float*>(weights[i]);
    }
    pack_side_by_side<kLanes>(words, n / 4, n / 4,
                              reinterpret_cast<float*>(panel->weights[0][first]), kInt8Columns);
  }
}

/// What belongs to one part of a block, given that of the whole and of its second half.
template <bool kHalves, typename T>
FLUX_INLINE T of_part(T whole, T late, int part) {
  if constexpr (!kHalves) return whole;
  return part == 0 ? whole - late : late;
}

/// Adds the product of kInt8Rows rows and a panel to their sums, or sets them. kHalves: weights
/// have a scale for half a block.
template <bool kHalves, bool kHasMinima>
void multiply(const Int8Row* rows, const Int8Panel& panel, int64_t blocks, bool first,
              float* sums) {
  constexpr int kRows = kInt8Rows;
  constexpr int kParts = kHalves ? 2 : 1;
  constexpr int kWords = kInt8Block / 4 / kParts;  // of four values
  Vec total[kRows][2];
  FLUX_UNROLL
  for (int row = 0; row < kRows; ++row) {
    total[row][0] = first ? Vec{} : load(sums + row * kInt8Columns);
    total[row][1] = first ? Vec{} : load(sums + row * kInt8Columns + kLanes);
  }
  // The next rows are fetched meanwhile: the processor does not see in time that they are wanted.
  const auto* next = reinterpret_cast<const std::byte*>(rows + kRows);
  constexpr int64_t kAhead = kRows * sizeof(Int8Row) / kInt8Blocks;
  for (int64_t block = 0; block < blocks; ++block) {
    for (int64_t at = 0; at < kAhead; at += 64) __builtin_prefetch(next + block * kAhead + at);
    FLUX_UNROLL
    for (int part = 0; part < kParts; ++part) {
      const int64_t index = block * kParts + part;
      VecInt dots[kRows][2];
      FLUX_UNROLL
      for (int row = 0; row < kRows; ++row) {
        const Int8Row& x = rows[row];
        const int32_t start = of_part<kHalves>(x.starts[block], x.late_starts[block], part);
        dots[row][0] = dots[row][1] = start - VecInt{};
      }
      FLUX_UNROLL
      for (int word = 0; word < kWords; ++word) {
        const auto* weights = panel.weights[index * kWords + word];
        const VecInt left = load_words(weights);
        const VecInt right = load_words(weights + kLanes);
        FLUX_UNROLL
        for (int row = 0; row < kRows; ++row) {
          const VecInt x = splat_word(rows[row].values + (index * kWords + word) * 4);
          dots[row][0] = dot_product(dots[row][0], left, x);
          dots[row][1] = dot_product(dots[row][1], right, x);
        }
      }
      const Vec left = load(panel.scales[index]);
      const Vec right = load(panel.scales[index] + kLanes);
      FLUX_UNROLL
      for (int row = 0; row < kRows; ++row) {
        const float scale = rows[row].scales[block];
        total[row][0] += to_float(dots[row][0]) * scale * left;
        total[row][1] += to_float(dots[row][1]) * scale * right;
      }
      if constexpr (kHasMinima) {
        const Vec left_minima = load(panel.minima[index]);
        const Vec right_minima = load(panel.minima[index] + kLanes);
        FLUX_UNROLL
        for (int row = 0; row < kRows; ++row) {
          const Int8Row& x = rows[row];
          const float sum = of_part<kHalves>(x.sums[block], x.late_sums[block], part);
          total[row][0] += sum * left_minima;
          total[row][1] += sum * right_minima;
        }
      }
    }
  }
  FLUX_UNROLL
  for (int row = 0; row < kRows; ++row) {
    store(sums + row * kInt8Columns, total[row][0]);
    store(sums + row * kInt8Columns + kLanes, total[row][1]);
  }
}

void store_rows(const TileEpilogue<BFloat16>& tile, const float* sums, int64_t first) {
  TileEpilogue<BFloat16> rest = tile;
  rest.sums = sums;
  rest.sums_stride = kInt8Columns;
  rest.rows = tile.rows - first < kInt8Rows ? tile.rows - first : kInt8Rows;
  if (rest.residual) rest.residual += first * rest.residual_stride;
  rest.out += first * rest.out_stride;
  rest.row += first;
  store_tile(rest);
}

void run(const Int8Product& product) {
  const bool minima = product.panel->has_minima;
  const auto multiply_rows = product.panel->block == kInt8Block
                                 ? (minima ? multiply<false, true> : multiply<false, false>)
                                 : (minima ? multiply<true, true> : multiply<true, false>);
  for (int64_t row = 0; row < product.epilogue.rows; row += kInt8Rows) {
    float* sums = product.sums + row * kInt8Columns;
    multiply_rows(product.rows + row, *product.panel, product.depth / kInt8Block, product.first,
                  sums);
    if (product.last) store_rows(product.epilogue, sums, row);
  }
}

}  // namespace

Int8Kernels int8_kernels() { return {scaled_values, quantize, unpack, run}; }
#else
Int8Kernels int8_kernels() { return {}; }
#endif

}  // namespace flux::cpu::FLUX_ISA
