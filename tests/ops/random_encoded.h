#pragma once

#include <random>

#include "tensor/encoding.h"

namespace flux {

/// Rows of random blocks with finite scales.
inline StoredTensor random_encoded(Encoding encoding, int64_t rows, int64_t depth, unsigned seed) {
  const EncodingInfo& info = info_of(encoding);
  std::mt19937 generator(seed);
  const int64_t row_bytes = depth / info.block_values * info.block_bytes;
  const Tensor bytes = Tensor::allocate({rows, row_bytes}, DType::kU8);
  auto* data = bytes.data<uint8_t>();
  for (int64_t i = 0; i < bytes.numel(); ++i) data[i] = static_cast<uint8_t>(generator());
  // The two bytes of a half: no exponent of all ones, and none so large that sums overflow.
  const auto small_half = [&](uint8_t* at) { at[1] = static_cast<uint8_t>((at[1] & 0x83) | 0x20); };
  for (int64_t block = 0; block < bytes.numel() / info.block_bytes; ++block) {
    uint8_t* at = data + block * info.block_bytes;
    switch (encoding) {
      case Encoding::kF8E4M3:
        if ((*at & 0x7f) == 0x7f) *at = 0;
        break;
      case Encoding::kQ2K:
        small_half(at + 80);
        small_half(at + 82);
        break;
      case Encoding::kQ3K:
        small_half(at + 108);
        break;
      case Encoding::kQ6K:
        small_half(at + 208);
        break;
      case Encoding::kQ4_1:
      case Encoding::kQ5_1:
      case Encoding::kQ4K:
      case Encoding::kQ5K:
        small_half(at);
        small_half(at + 2);
        break;
      default:
        small_half(at);
    }
  }
  StoredTensor weight(encoding, {rows, depth}, bytes);
  if (encoding != Encoding::kF8E4M3) return weight;
  const bool each_row = seed % 2 == 0;
  const Tensor scales = Tensor::allocate({each_row ? rows : 1}, DType::kF32);
  for (int64_t i = 0; i < scales.numel(); ++i) {
    scales.data<float>()[i] = 0.01f + 0.001f * static_cast<float>(i);
  }
  weight.scales = scales;
  return weight;
}

}  // namespace flux
