#pragma once

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define FLUX_AVX512
#include <immintrin.h>
#endif

#include <cstdint>

#include "tensor/dtype.h"

/// Vectors of floats in the width of the instruction set that a file is compiled for, with the
/// few functions the kernels need. Only for the files in kernels/, which are compiled once for
/// each instruction set: FLUX_ISA names the namespace, so that the linker cannot take a function
/// of one build for another's. The compilers' vector extensions make it portable.
namespace flux::cpu::FLUX_ISA {

#if defined(FLUX_AVX512)
inline constexpr int kLanes = 16;
#elif defined(__AVX2__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

#if defined(FLUX_AVX512)
/// Unmasked intrinsics make GCC 12 warn of an uninitialised operand inside its own header.
inline constexpr __mmask16 kAllLanes = 0xffff;
#endif

using Vec = float __attribute__((vector_size(kLanes * 4)));
using VecUint = uint32_t __attribute__((vector_size(kLanes * 4)));
using VecHalf = uint16_t __attribute__((vector_size(kLanes * 2)));

#define FLUX_INLINE inline __attribute__((always_inline))

/// FLUX_UNROLL fully unrolls the short loop that follows.
#if defined(__clang__)
#define FLUX_UNROLL _Pragma("unroll")
#else
#define FLUX_UNROLL _Pragma("GCC unroll 16")
#endif

FLUX_INLINE Vec splat(float value) { return value - Vec{}; }
FLUX_INLINE Vec min(Vec a, Vec b) { return a < b ? a : b; }
FLUX_INLINE Vec max(Vec a, Vec b) { return a > b ? a : b; }

using QuarterVec = float __attribute__((vector_size(16)));

/// Combines the lanes to four, then to one, always in the same order.
template <typename F>
FLUX_INLINE float reduce(Vec v, const F& f) {
  QuarterVec four;
#if defined(FLUX_AVX512)
  const auto eight = f(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7),
                       __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
  four = f(__builtin_shufflevector(eight, eight, 0, 1, 2, 3),
           __builtin_shufflevector(eight, eight, 4, 5, 6, 7));
#elif defined(__AVX2__)
  four = f(__builtin_shufflevector(v, v, 0, 1, 2, 3), __builtin_shufflevector(v, v, 4, 5, 6, 7));
#else
  four = v;
#endif
  const QuarterVec two = f(four, __builtin_shufflevector(four, four, 2, 3, 0, 1));
  return f(two, __builtin_shufflevector(two, two, 1, 0, 3, 2))[0];
}

FLUX_INLINE float sum(Vec value) {
  return reduce(
      value, [](auto a, auto b) __attribute__((always_inline)) { return a + b; });
}

FLUX_INLINE float largest(Vec value) {
  return reduce(
      value, [](auto a, auto b) __attribute__((always_inline)) { return a > b ? a : b; });
}

/// Swaps the lanes of each pair (0, 1), (2, 3), ...
FLUX_INLINE Vec swap_pairs(Vec v) {
#if defined(FLUX_AVX512)
  return __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
#elif defined(__AVX2__)
  return __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6);
#else
  return __builtin_shufflevector(v, v, 1, 0, 3, 2);
#endif
}

/// The lanes of a vector that lie in a row: all of them, or the first `count` at the row's end.
struct Full {};
struct Partial {
  int64_t count;
};

FLUX_INLINE Vec load(const float* from, Full = {}) {
  Vec value;
  __builtin_memcpy(&value, from, sizeof(value));
  return value;
}

FLUX_INLINE void store(float* to, Vec value, Full = {}) {
  __builtin_memcpy(to, &value, sizeof(value));
}

FLUX_INLINE VecUint widen(VecHalf bits) {
#if defined(FLUX_AVX512)
  return (VecUint)_mm512_maskz_cvtepu16_epi32(kAllLanes, (__m256i)bits);
#else
  return __builtin_convertvector(bits, VecUint);
#endif
}

FLUX_INLINE Vec load(const BFloat16* from, Full = {}) {
  VecHalf bits;
  __builtin_memcpy(&bits, from, sizeof(bits));
  return (Vec)(widen(bits) << 16);
}

/// Rounds to nearest even; NaN stays NaN. The processor's instruction makes subnormals zero.
FLUX_INLINE VecHalf to_bfloat16(Vec value) {
#if defined(__AVX512BF16__)
  return (VecHalf)_mm512_cvtneps_pbh((__m512)value);
#else
  const VecUint word = (VecUint)value;
  const VecUint rounded = word + 0x7fffu + ((word >> 16) & 1u);
  const VecUint chosen = value == value ? rounded : (word | 0x400000u);
  return __builtin_convertvector(chosen >> 16, VecHalf);
#endif
}

FLUX_INLINE void store(BFloat16* to, Vec value, Full = {}) {
  const VecHalf bits = to_bfloat16(value);
  __builtin_memcpy(static_cast<void*>(to), &bits, sizeof(bits));
}

/// Loads the first lanes from memory; the others are zero.
template <typename T>
FLUX_INLINE Vec load(const T* from, Partial lanes) {
  T buffer[kLanes] = {};
  for (int64_t i = 0; i < lanes.count; ++i) buffer[i] = from[i];
  return load(buffer);
}

template <typename T>
FLUX_INLINE void store(T* to, Vec value, Partial lanes) {
  T buffer[kLanes];
  store(buffer, value);
  for (int64_t i = 0; i < lanes.count; ++i) to[i] = buffer[i];
}

/// Returns `value` with the lanes outside the row made zero.
FLUX_INLINE Vec keep(Vec value, Full) { return value; }
FLUX_INLINE Vec keep(Vec value, Partial lanes) {
  float buffer[kLanes];
  store(buffer, value);
  return load(buffer, lanes);
}

/// Calls f(i, Full{}) for each whole vector of a row of n elements and f(i, Partial{...}) for the
/// rest: two calls, so that the first compiles to code that never checks for the row's end.
template <typename F>
FLUX_INLINE void for_each_vec(int64_t n, const F& f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, Full{});
  if (i < n) f(i, Partial{n - i});
}

/// Returns the sum of f(i, lanes), as for_each_vec calls it, over a row. f returns zero outside the
/// row.
template <typename F>
FLUX_INLINE float sum_over(int64_t n, const F& f) {
  Vec total[4] = {};  // independent chains: an addition takes four cycles
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) total[j] += f(i + j * kLanes, Full{});
  }
  for (; i + kLanes <= n; i += kLanes) total[0] += f(i, Full{});
  if (i < n) total[1] += f(i, Partial{n - i});
  return sum((total[0] + total[1]) + (total[2] + total[3]));
}

/// 2^(n + f) for an integer n in the low bits of `shifted` and |f| <= 1/2: a polynomial (relative
/// error 2e-9 before rounding) with n added to its exponent.
FLUX_INLINE Vec exp2_parts(Vec shifted, Vec f) {
  Vec p = splat(1.53458075e-4f);
  p = p * f + 1.33999312e-3f;
  p = p * f + 9.61848897e-3f;
  p = p * f + 5.55032878e-2f;
  p = p * f + 2.40226469e-1f;
  p = p * f + 6.93147206e-1f;
  p = p * f + 1.0f;
  // Unsigned: the exponent's sum may wrap.
  return (Vec)((VecUint)p + ((VecUint)shifted << 23));
}

inline constexpr float kRoundingMagic = 0x1.8p23f;  // x + this has round(x) in its low bits

/// 2^x within 2 ulp. x is clamped to [-126, 127]: no subnormal results, no infinity; NaN stays.
FLUX_INLINE Vec exp2(Vec x) {
  const Vec clamped = min(splat(127.0f), max(splat(-126.0f), x));
  const Vec shifted = clamped + kRoundingMagic;
  return exp2_parts(shifted, clamped - (shifted - kRoundingMagic));
}

/// e^x within 2 ulp. x is clamped to [-87, 88]: no subnormal results, no infinity; NaN stays.
FLUX_INLINE Vec exp(Vec x) {
  const Vec clamped = min(splat(88.0f), max(splat(-87.0f), x));
  const Vec shifted = clamped * 1.44269504f + kRoundingMagic;
  const Vec n = shifted - kRoundingMagic;
  // ln 2 in two parts, the first short enough for n times it to be exact.
  const Vec rest = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  return exp2_parts(shifted, rest * 1.44269504f);
}

/// 1 / x within 2 ulp for x in [1, 2^126]; may be zero above.
FLUX_INLINE Vec reciprocal(Vec x) {
#if defined(FLUX_AVX512)
  // A division takes three times as long as this Newton step.
  const Vec guess = (Vec)_mm512_maskz_rcp14_ps(kAllLanes, (__m512)x);
  return guess + guess * (1.0f - x * guess);
#else
  return 1.0f / x;
#endif
}

FLUX_INLINE Vec sigmoid(Vec x) { return reciprocal(1.0f + exp(-x)); }

/// The normal distribution function, (1 + erf(x / sqrt 2)) / 2, to a relative error of 1e-6 down
/// to x = -13. erfc(z) exp(z^2) = t P(t) with t = 1 / (1 + 0.4 z), the polynomial fitted for a
/// relative error of 6e-8 on z in [0, 10].
FLUX_INLINE Vec normal_cdf(Vec x) {
  const Vec magnitude = max(x, -x);
  const Vec z = magnitude * 0.707106781f;
  const Vec t = reciprocal(1.0f + z * 0.4f);
  Vec p = splat(0.0412533313f);
  p = p * t - 0.14032063f;
  p = p * t + 0.0839901049f;
  p = p * t + 0.0879611983f;
  p = p * t + 0.0797585955f;
  p = p * t + 0.193392344f;
  p = p * t + 0.201887802f;
  p = p * t + 0.226443083f;
  p = p * t + 0.225634233f;
  const Vec tail = 0.5f * (p * t) * exp(magnitude * magnitude * -0.5f);
  return x < 0.0f ? tail : 1.0f - tail;
}

}  // namespace flux::cpu::FLUX_ISA
