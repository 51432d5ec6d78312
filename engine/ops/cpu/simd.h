#pragma once

#include <cstdint>

#include "tensor/dtype.h"

/// Vectors of floats in the width of the instruction set that a file is compiled for, with the
/// few functions the kernels need. Only for the files in kernels/, which are compiled once for
/// each instruction set: FLUX_ISA names the namespace, so that no function of one build can be
/// taken for another's by the linker. The compilers' vector extensions make it portable.
namespace flux::cpu::FLUX_ISA {

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
inline constexpr int kLanes = 16;
#elif defined(__AVX2__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

using Vec = float __attribute__((vector_size(kLanes * 4)));
using VecInt = int32_t __attribute__((vector_size(kLanes * 4)));
using VecUint = uint32_t __attribute__((vector_size(kLanes * 4)));
using VecHalf = uint16_t __attribute__((vector_size(kLanes * 2)));

#define FLUX_INLINE inline __attribute__((always_inline))

FLUX_INLINE Vec splat(float value) { return value - Vec{}; }

FLUX_INLINE Vec load(const float* from) {
  Vec value;
  __builtin_memcpy(&value, from, sizeof(value));
  return value;
}

FLUX_INLINE void store(float* to, Vec value) { __builtin_memcpy(to, &value, sizeof(value)); }

FLUX_INLINE Vec widen(VecHalf bits) {
  return reinterpret_cast<Vec>(__builtin_convertvector(bits, VecUint) << 16);
}

/// Rounds to bfloat16, to nearest even; NaN stays NaN.
FLUX_INLINE VecHalf narrow(Vec value) {
  const VecUint word = reinterpret_cast<VecUint>(value);
  const VecUint rounded = word + 0x7fffu + ((word >> 16) & 1u);
  const VecUint quiet = word | 0x400000u;
  const VecUint chosen = value == value ? rounded : quiet;
  return __builtin_convertvector(chosen >> 16, VecHalf);
}

FLUX_INLINE Vec load(const BFloat16* from) {
  VecHalf bits;
  __builtin_memcpy(&bits, from, sizeof(bits));
  return widen(bits);
}

FLUX_INLINE void store(BFloat16* to, Vec value) {
  const VecHalf bits = narrow(value);
  __builtin_memcpy(to, &bits, sizeof(bits));
}

/// The first `count` < kLanes elements, the rest zero.
template <typename T>
FLUX_INLINE Vec load_part(const T* from, int64_t count) {
  alignas(64) T buffer[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) __builtin_memcpy(buffer + i, from + i, sizeof(T));
  return load(buffer);
}

template <typename T>
FLUX_INLINE void store_part(T* to, Vec value, int64_t count) {
  alignas(64) T buffer[kLanes];
  store(buffer, value);
  for (int64_t i = 0; i < count; ++i) __builtin_memcpy(to + i, buffer + i, sizeof(T));
}

/// Calls f(i, count) for each vector of a row of n elements: count is kLanes but at the end.
/// The two calls are separate so that the full one compiles without a tail.
template <typename F>
FLUX_INLINE void for_each_vec(int64_t n, F&& f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, Full{});
  if (i < n) f(i, Part{n - i});
}

FLUX_INLINE Vec min(Vec a, Vec b) { return a < b ? a : b; }
FLUX_INLINE Vec max(Vec a, Vec b) { return a > b ? a : b; }

}  // namespace flux::cpu::FLUX_ISA
