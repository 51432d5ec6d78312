#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

#include "tensor/encoding.h"

/// The decoders of single blocks, for files that decode: each has its own copy of them, compiled
/// for its own instruction set, without joining products and sums (-ffp-contract=off). Loops run
/// over values that share a scale, in the order in which they are stored.
namespace flux {

static inline float half_at(const uint8_t* bytes) {
  Float16 value;
  std::memcpy(&value.bits, bytes, sizeof(value.bits));
  return static_cast<float>(value);
}

/// The blocks of 32 values: [d | m] [high bits] [low bits of 0 to 15, and above them of 16 to 31].
template <bool kHasMinimum, bool kHasFifthBit>
static inline void decode_32(const uint8_t* block, float* values) {
  constexpr int kHalf = 16;
  const float d = half_at(block);
  const float m = kHasMinimum ? half_at(block + 2) : 0;
  const uint8_t* qs = block + (kHasMinimum ? 4 : 2);
  uint32_t high = 0;
  if (kHasFifthBit) {
    std::memcpy(&high, qs, sizeof(high));
    qs += sizeof(high);
  }
  constexpr int kZero = kHasFifthBit ? 16 : 8;
  const auto value = [&](uint32_t q) {
    return kHasMinimum ? d * static_cast<float>(static_cast<int>(q)) + m
                       : d * static_cast<float>(static_cast<int>(q) - kZero);
  };
  for (int i = 0; i < kHalf; ++i) {
    values[i] = value((qs[i] & 0xfU) | (high >> i & 1U) << 4);
    values[kHalf + i] = value(static_cast<uint32_t>(qs[i] >> 4) | (high >> (kHalf + i) & 1U) << 4);
  }
}

static inline void decode_q8_0(const uint8_t* block, float* values) {
  const float d = half_at(block);
  for (int i = 0; i < 32; ++i) {
    values[i] = d * static_cast<float>(static_cast<int8_t>(block[2 + i]));
  }
}

/// The 6-bit scales and minima of 8 sub-blocks, packed in 12 bytes.
struct ScalesAndMinima {
  explicit ScalesAndMinima(const uint8_t* packed) {
    for (size_t i = 0; i < 4; ++i) {
      scale[i] = packed[i] & 0x3f;
      minimum[i] = packed[i + 4] & 0x3f;
      scale[i + 4] = static_cast<uint8_t>((packed[i + 8] & 0xf) | (packed[i] >> 2 & 0x30));
      minimum[i + 4] = static_cast<uint8_t>(packed[i + 8] >> 4 | (packed[i + 4] >> 2 & 0x30));
    }
  }
  std::array<uint8_t, 8> scale;
  std::array<uint8_t, 8> minimum;
};

static inline void decode_q2k(const uint8_t* block, float* values) {
  const float d = half_at(block + 80);
  const float dmin = half_at(block + 82);
  for (int sub = 0; sub < 16; ++sub) {
    const uint8_t* qs = block + 16 + sub / 8 * 32 + sub % 2 * 16;
    const int shift = sub / 2 % 4 * 2;
    const float scale = d * static_cast<float>(block[sub] & 0xf);
    const float minimum = dmin * static_cast<float>(block[sub] >> 4);
    for (int i = 0; i < 16; ++i) {
      values[sub * 16 + i] = scale * static_cast<float>(qs[i] >> shift & 3) - minimum;
    }
  }
}

static inline void decode_q3k(const uint8_t* block, float* values) {
  const uint8_t* packed = block + 96;
  const float d = half_at(block + 108);
  for (int sub = 0; sub < 16; ++sub) {
    const uint8_t* high = block + sub % 2 * 16;
    const uint8_t* qs = block + 32 + sub / 8 * 32 + sub % 2 * 16;
    const int shift = sub / 2 % 4 * 2;
    const int low = packed[sub % 8] >> (sub / 8 * 4) & 0xf;
    const float scale =
        d * static_cast<float>((low | (packed[8 + sub % 4] >> (sub / 4 * 2) & 3) << 4) - 32);
    for (int i = 0; i < 16; ++i) {
      const int absent = 4 - ((high[i] >> (sub / 2) & 1) << 2);
      values[sub * 16 + i] = scale * static_cast<float>((qs[i] >> shift & 3) - absent);
    }
  }
}

/// Q4_K, and with a fifth bit Q5_K.
template <bool kHasFifthBit>
static inline void decode_q45k(const uint8_t* block, float* values) {
  const float d = half_at(block);
  const float dmin = half_at(block + 2);
  const ScalesAndMinima packed(block + 4);
  const uint8_t* high = block + 16;
  for (int sub = 0; sub < 8; ++sub) {
    const auto index = static_cast<size_t>(sub);
    const uint8_t* qs = block + (kHasFifthBit ? 48 : 16) + sub / 2 * 32;
    const int shift = sub % 2 * 4;
    const float scale = d * static_cast<float>(packed.scale[index]);
    const float minimum = dmin * static_cast<float>(packed.minimum[index]);
    for (int i = 0; i < 32; ++i) {
      int q = qs[i] >> shift & 0xf;
      if (kHasFifthBit) q |= (high[i] >> sub & 1) << 4;
      values[sub * 32 + i] = scale * static_cast<float>(q) - minimum;
    }
  }
}

static inline void decode_q6k(const uint8_t* block, float* values) {
  const float d = half_at(block + 208);
  for (int sub = 0; sub < 16; ++sub) {
    const int in_half = sub % 8;
    const uint8_t* low = block + sub / 8 * 64 + in_half % 4 * 16;
    const uint8_t* high = block + 128 + sub / 8 * 32 + sub % 2 * 16;
    const int low_shift = in_half / 4 * 4;
    const int high_shift = in_half / 2 * 2;
    const float scale = d * static_cast<float>(static_cast<int8_t>(block[192 + sub]));
    for (int i = 0; i < 16; ++i) {
      const int q = (low[i] >> low_shift & 0xf) | (high[i] >> high_shift & 3) << 4;
      values[sub * 16 + i] = scale * static_cast<float>(q - 32);
    }
  }
}

/// Sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinities, NaN is all ones.
static constexpr float e4m3(uint8_t bits) {
  if ((bits & 0x7f) == 0x7f) return std::bit_cast<float>(0x7fc00000U | (bits & 0x80U) << 24);
  const int exponent = bits >> 3 & 0xf;
  const int mantissa = bits & 7;
  float value = exponent == 0 ? static_cast<float>(mantissa) : static_cast<float>(mantissa + 8);
  for (int i = exponent; i > 1; --i) value *= 2;
  value /= 512;  // of the last place of the smallest exponent
  return bits & 0x80 ? -value : value;
}

static constexpr auto kE4M3 = [] {
  std::array<float, 256> table{};
  for (size_t i = 0; i < table.size(); ++i) table[i] = e4m3(static_cast<uint8_t>(i));
  return table;
}();

static inline void decode_e4m3(const uint8_t* block, float* values) { *values = kE4M3[*block]; }

/// The decoder of one block of an encoding; none for kPlain.
static inline auto block_decoder(Encoding encoding) {
  using Decoder = void (*)(const uint8_t*, float*);
  static constexpr Decoder kDecoders[] = {
      nullptr,
      decode_e4m3,
      decode_32<false, false>,
      decode_32<true, false>,
      decode_32<false, true>,
      decode_32<true, true>,
      decode_q8_0,
      decode_q2k,
      decode_q3k,
      decode_q45k<false>,
      decode_q45k<true>,
      decode_q6k,
  };
  static_assert(std::size(kDecoders) == std::size(kEncodings));
  return kDecoders[static_cast<size_t>(encoding)];
}

}  // namespace flux
