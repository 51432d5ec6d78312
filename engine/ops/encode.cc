#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/kernels.h"
#include "support/parts.h"

namespace flux {
namespace {

constexpr float kSmallestScale = 1e-30f;  // below it a row is zeros

/// Encodes rows [begin, end) of a matrix; codes: u8, scales: f32 [rows].
void encode_rows(const StoredTensor& weight, DType dtype, int64_t begin, int64_t end,
                 const Tensor& codes, const Tensor& scales) {
  const int64_t columns = weight.shape[1];
  const Tensor rounded = Tensor::allocate({1, columns}, dtype);
  const Tensor row = Tensor::allocate({1, columns}, DType::kF32);
  const auto* values = row.data<float>();
  for (int64_t i = begin; i < end; ++i) {
    decode_rows(weight, i, i + 1, rounded);
    copy_convert(rounded, row);
    float largest = 0;
    for (int64_t j = 0; j < columns; ++j) largest = std::max(largest, std::abs(values[j]));
    const float scale = largest * (1.0f / kLargestE4M3);
    const float factor = scale > kSmallestScale ? 1.0f / scale : 0.0f;
    auto* to = codes.data<uint8_t>() + i * columns;
    for (int64_t j = 0; j < columns; ++j) to[j] = encode_e4m3(values[j] * factor);
    scales.data<float>()[i] = scale;
  }
}

StoredTensor encode(const StoredTensor& weight, DType dtype, int threads) {
  constexpr int64_t kWorthAThread = int64_t{1} << 20;  // values
  const int64_t rows = weight.shape[0];
  const Tensor codes = Tensor::allocate(weight.shape, DType::kU8);
  StoredTensor encoded(Encoding::kF8E4M3, weight.shape, codes);
  const Tensor scales = Tensor::allocate({rows}, DType::kF32);
  encoded.scales = scales;
  const int64_t useful = std::max<int64_t>(1, weight.numel() / kWorthAThread);
  const int64_t parts = std::min<int64_t>({threads, useful, rows});
  const StoredTensor read = in_memory(weight, threads);
  for_each_part(parts, [&](int64_t i) {
    encode_rows(read, dtype, rows * i / parts, rows * (i + 1) / parts, codes, scales);
  });
  return encoded;
}

}  // namespace

std::vector<StoredTensor> encode_e4m3(std::span<const StoredTensor> weights, DType dtype,
                                      int threads) {
  std::vector<StoredTensor> encoded;
  for (const StoredTensor& weight : weights) {
    encoded.push_back(weight.encoding == Encoding::kF8E4M3 ? weight
                                                           : encode(weight, dtype, threads));
  }
  return encoded;
}

}  // namespace flux
