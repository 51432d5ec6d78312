#pragma once

#include <type_traits>
#include <utility>

#include "ops/cpu/simd.h"

/// Operands of products, packed so that a micro-kernel reads them in order.
/// Where the processor multiplies bfloat16, an operand of bfloat16 holds a pair, neighbours in
/// depth; elsewhere every operand is a float.
namespace flux::cpu::FLUX_ISA {

constexpr int kRows = kLanes == 16 ? 12 : kLanes == 8 ? 6 : 4;
constexpr int kColumns = 2 * kLanes;

/// Two bf16 neighbours in depth, the first in the low half.
struct Pair {
  uint32_t bits;
};

#if defined(__AVX512BF16__)
template <typename T>
using OperandOf = std::conditional_t<sizeof(T) == sizeof(float), float, Pair>;
#else
template <typename T>
using OperandOf = float;
#endif

/// Number of elements of depth that one operand holds.
template <typename Operand>
constexpr int64_t kDepthOf = std::is_same_v<Operand, Pair> ? 2 : 1;

/// Number of operands for a depth of n elements.
template <typename Operand>
constexpr int64_t depth_of(int64_t n) {
  return (n + kDepthOf<Operand> - 1) / kDepthOf<Operand>;
}

FLUX_INLINE Vec multiply_add(Vec sum, float a, Vec b) { return sum + a * b; }

FLUX_INLINE Vec load_operands(const float* from) { return load(from); }

#if defined(__AVX512BF16__)
FLUX_INLINE __m512bh load_operands(const Pair* from) {
  __m512i bits = _mm512_loadu_si512(from);
  return (__m512bh)bits;
}

FLUX_INLINE Vec multiply_add(Vec sum, Pair a, __m512bh b) {
  return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int)a.bits), b);
}
#endif

/// Computes sums[kCount][kColumns] = factors[row] * sums + a b, or a b where factors is null. The
/// operand of a at a row and a depth is at row * kRowStride + depth * kDepthStride, known to the
/// compiler so that no registers hold addresses; b is a packed panel of `depth` rows.
template <int kRowStride, int kDepthStride, int kCount = kRows, typename Operand>
void micro_kernel(const Operand* a, const Operand* b, int64_t depth, const float* factors,
                  float* sums, int64_t sums_stride) {
  // The loops over rows are unrolled first; otherwise the sums would live on the stack.
  Vec total[kCount][2];
  FLUX_UNROLL
  for (int row = 0; row < kCount; ++row) total[row][0] = total[row][1] = Vec{};
  for (int64_t i = 0; i < depth; ++i, a += kDepthStride, b += kColumns) {
    const auto left = load_operands(b);
    const auto right = load_operands(b + kLanes);
    FLUX_UNROLL
    for (int row = 0; row < kCount; ++row) {
      const Operand element = a[row * kRowStride];
      total[row][0] = multiply_add(total[row][0], element, left);
      total[row][1] = multiply_add(total[row][1], element, right);
    }
  }
  if (factors) {
    FLUX_UNROLL
    for (int row = 0; row < kCount; ++row) {
      total[row][0] += factors[row] * load(sums + row * sums_stride);
      total[row][1] += factors[row] * load(sums + row * sums_stride + kLanes);
    }
  }
  FLUX_UNROLL
  for (int row = 0; row < kCount; ++row) {
    store(sums + row * sums_stride, total[row][0]);
    store(sums + row * sums_stride + kLanes, total[row][1]);
  }
}

[[maybe_unused]] FLUX_INLINE float to_float(float value) { return value; }
[[maybe_unused]] FLUX_INLINE float to_float(BFloat16 value) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(value.bits) << 16);
}

/// The operand at depth i of a column whose elements are `stride` apart; zero past the end.
template <typename Operand, typename T>
FLUX_INLINE Operand operand_at(const T* column, int64_t stride, int64_t i, int64_t n) {
  if constexpr (std::is_same_v<Operand, float>) {
    return i < n ? to_float(column[i * stride]) : 0.0f;
  } else {
    const uint32_t low = 2 * i < n ? column[2 * i * stride].bits : 0u;
    const uint32_t high = 2 * i + 1 < n ? column[(2 * i + 1) * stride].bits : 0u;
    return Pair{low | high << 16};
  }
}

/// Loads kLanes operands of a row.
template <typename Operand, typename T>
FLUX_INLINE VecUint load_row(const T* from) {
  if constexpr (std::is_same_v<Operand, Pair>) {
    VecUint pairs;
    __builtin_memcpy(&pairs, from, sizeof(pairs));
    return pairs;
  } else {
    return (VecUint)load(from);
  }
}

/// Swaps the upper one of each two groups of kStep lanes of `a` with the lower one of `b`.
template <int kStep, int... kLane>
FLUX_INLINE void exchange(VecUint& a, VecUint& b, std::integer_sequence<int, kLane...>) {
  const VecUint low =
      __builtin_shufflevector(a, b, (kLane & kStep ? kLanes + kLane - kStep : kLane)...);
  const VecUint high =
      __builtin_shufflevector(a, b, (kLane & kStep ? kLanes + kLane : kLane + kStep)...);
  a = low;
  b = high;
}

template <int kStep>
FLUX_INLINE void exchange_rows(VecUint (&rows)[kLanes]) {
  FLUX_UNROLL
  for (int i = 0; i < kLanes; ++i) {
    if ((i & kStep) == 0) {
      exchange<kStep>(rows[i], rows[i + kStep], std::make_integer_sequence<int, kLanes>());
    }
  }
}

/// Turns kLanes operands, from element `begin` on, of each of kCount rows into kLanes rows of
/// kCount operands, `to_stride` apart.
template <int kCount, typename Operand, typename T>
FLUX_INLINE void transpose(const T* const* from, int64_t begin, Operand* to, int64_t to_stride) {
  VecUint rows[kLanes] = {};
  FLUX_UNROLL
  for (int i = 0; i < kCount; ++i) rows[i] = load_row<Operand>(from[i] + begin);
  exchange_rows<1>(rows);
  exchange_rows<2>(rows);
  if constexpr (kLanes > 4) exchange_rows<4>(rows);
  if constexpr (kLanes > 8) exchange_rows<8>(rows);
  FLUX_UNROLL
  for (int i = 0; i < kLanes; ++i) {
    __builtin_memcpy(to + i * to_stride, &rows[i], kCount * sizeof(Operand));
  }
}

/// Packs kCount rows of n elements side by side: all rows' operands of one depth, then, `stride`
/// further on, those of the next. Operands past n are zero.
template <int kCount, typename Operand, typename T>
FLUX_INLINE void pack_side_by_side(const T* const* rows, int64_t n, int64_t depth, Operand* to,
                                   int64_t stride) {
  constexpr int64_t kStep = kLanes * kDepthOf<Operand>;
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep, to += kLanes * stride) transpose<kCount>(rows, i, to, stride);
  for (i /= kDepthOf<Operand>; i < depth; ++i, to += stride) {
    for (int row = 0; row < kCount; ++row) to[row] = operand_at<Operand>(rows[row], 1, i, n);
  }
}

}  // namespace flux::cpu::FLUX_ISA
