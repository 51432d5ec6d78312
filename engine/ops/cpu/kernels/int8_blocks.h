#pragma once

#include "ops/cpu/simd.h"
#include "tensor/block_decoders.h"

/// Unpacks the blocks of encodings that have a scale for each 32 or 16 values, into what their
/// decoders (tensor/block_decoders.h) compute with: small integers, scales and minima. The integers
/// are marked as lying apart from all else (__restrict): such short loops are not vectorised else.
namespace flux::cpu::FLUX_ISA {

/// As half_at(), by the processor's conversion.
FLUX_INLINE float half(const uint8_t* bytes) {
  uint16_t bits;
  __builtin_memcpy(&bits, bytes, sizeof(bits));
  return _cvtsh_ss(bits);
}

/// The blocks of 32 values with 4 or 5 bits.
template <bool kHasMinimum, bool kHasFifthBit>
static inline void unpack_32(const uint8_t* block, uint8_t* weights, float* scale, float* minimum) {
  *scale = half(block);
  *minimum = kHasMinimum ? half(block + 2) : 0;
  const uint8_t* qs = block + (kHasMinimum ? 4 : 2);
  uint32_t high = 0;
  if (kHasFifthBit) {
    __builtin_memcpy(&high, qs, sizeof(high));
    qs += sizeof(high);
  }
  constexpr int kZero = kHasMinimum ? 0 : kHasFifthBit ? 16 : 8;
  const __m128i pairs = _mm_loadu_si128(reinterpret_cast<const __m128i*>(qs));
  const __m256i both = _mm256_set_m128i(_mm_srli_epi16(pairs, 4), pairs);
  const __m256i offset = _mm256_set1_epi8(static_cast<char>(128 - kZero));
  __m256i values = _mm256_add_epi8(_mm256_and_si256(both, _mm256_set1_epi8(0xf)), offset);
  if (kHasFifthBit) values = _mm256_mask_add_epi8(values, high, values, _mm256_set1_epi8(16));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights), values);
}

static inline void unpack_q8_0(const uint8_t* block, uint8_t* __restrict weights, float* scales,
                               float* minima) {
  scales[0] = half(block);
  minima[0] = 0;
  for (int i = 0; i < 32; ++i) weights[i] = block[2 + i] ^ 0x80;
}

/// Q4_K, and with a fifth bit Q5_K: 8 sub-blocks of 32.
template <bool kHasFifthBit>
static inline void unpack_q45k(const uint8_t* block, uint8_t* __restrict weights, float* scales,
                               float* minima) {
  const float d = half(block);
  const float dmin = half(block + 2);
  const ScalesAndMinima packed(block + 4);
  const uint8_t* high = block + 16;
  for (int sub = 0; sub < 8; ++sub) {
    const auto index = static_cast<size_t>(sub);
    const uint8_t* qs = block + (kHasFifthBit ? 48 : 16) + sub / 2 * 32;
    const int shift = sub % 2 * 4;
    scales[sub * kInt8Columns] = d * static_cast<float>(packed.scale[index]);
    minima[sub * kInt8Columns] = -dmin * static_cast<float>(packed.minimum[index]);
    for (int i = 0; i < 32; ++i) {
      int q = qs[i] >> shift & 0xf;
      if (kHasFifthBit) q |= (high[i] >> sub & 1) << 4;
      weights[sub * 32 + i] = static_cast<uint8_t>(q + 128);
    }
  }
}

static inline void unpack_q2k(const uint8_t* block, uint8_t* __restrict weights, float* scales,
                              float* minima) {
  const float d = half(block + 80);
  const float dmin = half(block + 82);
  for (int sub = 0; sub < 16; ++sub) {
    const uint8_t* qs = block + 16 + sub / 8 * 32 + sub % 2 * 16;
    const int shift = sub / 2 % 4 * 2;
    scales[sub * kInt8Columns] = d * static_cast<float>(block[sub] & 0xf);
    minima[sub * kInt8Columns] = -dmin * static_cast<float>(block[sub] >> 4);
    for (int i = 0; i < 16; ++i) {
      weights[sub * 16 + i] = static_cast<uint8_t>((qs[i] >> shift & 3) + 128);
    }
  }
}

static inline void unpack_q3k(const uint8_t* block, uint8_t* __restrict weights, float* scales,
                              float* minima) {
  const uint8_t* packed = block + 96;
  const float d = half(block + 108);
  for (int sub = 0; sub < 16; ++sub) {
    const uint8_t* high = block + sub % 2 * 16;
    const uint8_t* qs = block + 32 + sub / 8 * 32 + sub % 2 * 16;
    const int shift = sub / 2 % 4 * 2;
    const int low = packed[sub % 8] >> (sub / 8 * 4) & 0xf;
    const int scale = (low | (packed[8 + sub % 4] >> (sub / 4 * 2) & 3) << 4) - 32;
    scales[sub * kInt8Columns] = d * static_cast<float>(scale);
    minima[sub * kInt8Columns] = 0;
    for (int i = 0; i < 16; ++i) {
      const int absent = 4 - ((high[i] >> (sub / 2) & 1) << 2);
      weights[sub * 16 + i] = static_cast<uint8_t>((qs[i] >> shift & 3) - absent + 128);
    }
  }
}

static inline void unpack_q6k(const uint8_t* block, uint8_t* __restrict weights, float* scales,
                              float* minima) {
  const float d = half(block + 208);
  for (int sub = 0; sub < 16; ++sub) {
    const int in_half = sub % 8;
    const uint8_t* low = block + sub / 8 * 64 + in_half % 4 * 16;
    const uint8_t* high = block + 128 + sub / 8 * 32 + sub % 2 * 16;
    const int low_shift = in_half / 4 * 4;
    const int high_shift = in_half / 2 * 2;
    scales[sub * kInt8Columns] = d * static_cast<float>(static_cast<int8_t>(block[192 + sub]));
    minima[sub * kInt8Columns] = 0;
    for (int i = 0; i < 16; ++i) {
      const int q = (low[i] >> low_shift & 0xf) | (high[i] >> high_shift & 3) << 4;
      weights[sub * 16 + i] = static_cast<uint8_t>(q - 32 + 128);
    }
  }
}

/// Takes a block's integers apart, with 128 added, and its scales and minima, which are
/// kInt8Columns apart.
struct BlockUnpacker {
  void (*unpack)(const uint8_t* block, uint8_t* weights, float* scales, float* minima);
  int64_t scaled;  // values that share a scale
  bool has_minima;
};

static inline BlockUnpacker block_unpacker(Encoding encoding) {
  switch (encoding) {
    case Encoding::kQ4_0:
      return {unpack_32<false, false>, 32, false};
    case Encoding::kQ4_1:
      return {unpack_32<true, false>, 32, true};
    case Encoding::kQ5_0:
      return {unpack_32<false, true>, 32, false};
    case Encoding::kQ5_1:
      return {unpack_32<true, true>, 32, true};
    case Encoding::kQ4K:
      return {unpack_q45k<false>, 32, true};
    case Encoding::kQ5K:
      return {unpack_q45k<true>, 32, true};
    case Encoding::kQ2K:
      return {unpack_q2k, 16, true};
    case Encoding::kQ3K:
      return {unpack_q3k, 16, false};
    case Encoding::kQ6K:
      return {unpack_q6k, 16, false};
    case Encoding::kQ8_0:
      return {unpack_q8_0, 32, false};
    default:
      return {};
  }
}

}  // namespace flux::cpu::FLUX_ISA
