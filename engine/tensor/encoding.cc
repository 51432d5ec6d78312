#include "tensor/encoding.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <vector>

#include "support/error.h"
#include "tensor/format.h"

namespace flux {
namespace {

float half(const uint8_t* bytes) {
  Float16 value;
  std::memcpy(&value.bits, bytes, sizeof(value.bits));
  return static_cast<float>(value);
}

/// The blocks of 32 values of one bit width: [d | m] [high bits] [low bits].
template <bool kHasMinimum, bool kHasFifthBit>
void decode_32(const uint8_t* block, float* values) {
  const float d = half(block);
  const float m = kHasMinimum ? half(block + 2) : 0;
  const uint8_t* at = block + (kHasMinimum ? 4 : 2);
  uint32_t high = 0;
  if (kHasFifthBit) {
    std::memcpy(&high, at, sizeof(high));
    at += sizeof(high);
  }
  constexpr int kZero = kHasFifthBit ? 16 : 8;
  for (int i = 0; i < 32; ++i) {
    int q = i < 16 ? at[i] & 0xf : at[i - 16] >> 4;
    if (kHasFifthBit) q |= static_cast<int>(high >> i & 1) << 4;
    values[i] = kHasMinimum ? d * static_cast<float>(q) + m : d * static_cast<float>(q - kZero);
  }
}

void decode_q8_0(const uint8_t* block, float* values) {
  const float d = half(block);
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

void decode_q2k(const uint8_t* block, float* values) {
  const uint8_t* scales = block;
  const uint8_t* qs = block + 16;
  const float d = half(block + 80);
  const float dmin = half(block + 82);
  for (int i = 0; i < 256; ++i) {
    const uint8_t scale = scales[i / 16];
    const int q = qs[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
    values[i] = d * static_cast<float>(scale & 0xf) * static_cast<float>(q) -
                dmin * static_cast<float>(scale >> 4);
  }
}

void decode_q3k(const uint8_t* block, float* values) {
  const uint8_t* high = block;
  const uint8_t* qs = block + 32;
  const uint8_t* packed = block + 96;
  const float d = half(block + 108);
  for (int i = 0; i < 256; ++i) {
    const int sub = i / 16;
    const int low = packed[sub % 8] >> (sub / 8 * 4) & 0xf;
    const int scale = (low | (packed[8 + sub % 4] >> (sub / 4 * 2) & 3) << 4) - 32;
    const int q = qs[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
    const int absent = high[i % 32] >> (i / 32) & 1 ? 0 : 4;
    values[i] = d * static_cast<float>(scale) * static_cast<float>(q - absent);
  }
}

/// Q4_K and Q5_K: `high` holds a fifth bit, or is null.
void decode_q45k(const uint8_t* block, const uint8_t* high, const uint8_t* qs, float* values) {
  const float d = half(block);
  const float dmin = half(block + 2);
  const ScalesAndMinima packed(block + 4);
  for (int i = 0; i < 256; ++i) {
    const auto sub = static_cast<size_t>(i) / 32;
    int q = qs[i / 64 * 32 + i % 32] >> (sub % 2 * 4) & 0xf;
    if (high != nullptr) q |= (high[i % 32] >> sub & 1) << 4;
    values[i] = d * static_cast<float>(packed.scale[sub]) * static_cast<float>(q) -
                dmin * static_cast<float>(packed.minimum[sub]);
  }
}

void decode_q6k(const uint8_t* block, float* values) {
  const uint8_t* low = block;
  const uint8_t* high = block + 128;
  const uint8_t* scales = block + 192;
  const float d = half(block + 208);
  for (int i = 0; i < 256; ++i) {
    const int in_half = i % 128;
    const int four = low[i / 128 * 64 + in_half % 64] >> (in_half / 64 * 4) & 0xf;
    const int two = high[i / 128 * 32 + i % 32] >> (in_half / 32 * 2) & 3;
    const auto scale = static_cast<int8_t>(scales[i / 16]);
    values[i] = d * static_cast<float>(scale) * static_cast<float>((four | two << 4) - 32);
  }
}

/// Sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinities, NaN is all ones.
constexpr float e4m3(uint8_t bits) {
  const int exponent = bits >> 3 & 0xf;
  const int mantissa = bits & 7;
  if ((bits & 0x7f) == 0x7f) return std::bit_cast<float>(0x7fc00000U | (bits & 0x80U) << 24);
  float value =
      exponent == 0 ? static_cast<float>(mantissa) / 8 / 64 : 1 + static_cast<float>(mantissa) / 8;
  for (int i = 7; i < exponent; ++i) value *= 2;
  for (int i = exponent; i < 7 && exponent != 0; ++i) value /= 2;
  return bits & 0x80 ? -value : value;
}

constexpr auto kE4M3 = [] {
  std::array<float, 256> table{};
  for (size_t i = 0; i < table.size(); ++i) table[i] = e4m3(static_cast<uint8_t>(i));
  return table;
}();

void decode_block(Encoding encoding, const uint8_t* block, float* values) {
  switch (encoding) {
    case Encoding::kQ4_0:
      return decode_32<false, false>(block, values);
    case Encoding::kQ4_1:
      return decode_32<true, false>(block, values);
    case Encoding::kQ5_0:
      return decode_32<false, true>(block, values);
    case Encoding::kQ5_1:
      return decode_32<true, true>(block, values);
    case Encoding::kQ8_0:
      return decode_q8_0(block, values);
    case Encoding::kQ2K:
      return decode_q2k(block, values);
    case Encoding::kQ3K:
      return decode_q3k(block, values);
    case Encoding::kQ4K:
      return decode_q45k(block, nullptr, block + 16, values);
    case Encoding::kQ5K:
      return decode_q45k(block, block + 16, block + 48, values);
    case Encoding::kQ6K:
      return decode_q6k(block, values);
    case Encoding::kPlain:
    case Encoding::kF8E4M3:
      break;
  }
}

}  // namespace

void decode_blocks(Encoding encoding, const uint8_t* source, int64_t blocks, float* values) {
  if (encoding == Encoding::kF8E4M3) {
    for (int64_t i = 0; i < blocks; ++i) values[i] = kE4M3[source[i]];
    return;
  }
  const EncodingInfo& info = info_of(encoding);
  for (int64_t i = 0; i < blocks; ++i) {
    decode_block(encoding, source + i * info.block_bytes, values + i * info.block_values);
  }
}

int64_t StoredTensor::rows() const {
  return shape.rank() == 0 ? 1 : shape.numel() / std::max<int64_t>(shape[shape.rank() - 1], 1);
}

std::string_view StoredTensor::type_name() const {
  return is_plain() ? name_of(data.dtype()) : info_of(encoding).name;
}

StoredTensor slice(const StoredTensor& tensor, int64_t begin, int64_t end) {
  StoredTensor part = tensor;
  const int64_t whole = tensor.shape[0];
  part.shape[0] = end - begin;
  if (tensor.is_plain()) {
    part.data = tensor.data.slice(0, begin, end);
    return part;
  }
  if (tensor.shape.rank() == 1) {  // one row: whole blocks are a part of it
    const EncodingInfo& info = info_of(tensor.encoding);
    check(begin % info.block_values == 0 && end % info.block_values == 0,
          ErrorCode::kInvalidArgument, "values {} to {} of {} are no whole blocks of {}", begin,
          end, whole, info.name);
    part.data = tensor.data.slice(1, begin / info.block_values * info.block_bytes,
                                  end / info.block_values * info.block_bytes);
    return part;
  }
  const int64_t rows = tensor.rows() / whole;  // for each of the first dimension
  part.data = tensor.data.slice(0, begin * rows, end * rows);
  if (tensor.scales.defined() && tensor.scales.numel() > 1) {
    part.scales = tensor.scales.slice(0, begin * rows, end * rows);
  }
  return part;
}

StoredTensor copy_of(const StoredTensor& tensor) {
  StoredTensor copy = tensor;
  copy.data = to_dtype(tensor.data, tensor.data.dtype());
  return copy;
}

void decode_rows(const StoredTensor& tensor, int64_t begin, int64_t end, const Tensor& out) {
  if (tensor.is_plain()) return copy_convert(tensor.data.slice(0, begin, end), out);
  const int64_t columns = out.size(1);
  const int64_t blocks = columns / info_of(tensor.encoding).block_values;
  std::vector<float> values(static_cast<size_t>(columns));
  for (int64_t row = begin; row < end; ++row) {
    decode_blocks(tensor.encoding, tensor.data[row].data<uint8_t>(), blocks, values.data());
    if (tensor.scales.defined()) {
      const float scale = tensor.scales.data<float>()[tensor.scales.numel() > 1 ? row : 0];
      for (float& value : values) value *= scale;
    }
    copy_convert(Tensor(values.data(), DType::kF32, {columns}), out[row - begin]);
  }
}

Tensor decode(const StoredTensor& tensor, DType dtype) {
  if (tensor.is_plain()) return to_dtype(tensor.data, dtype);
  const Tensor result = Tensor::allocate(tensor.shape, dtype);
  const int64_t rows = tensor.rows();
  StoredTensor matrix = tensor;
  matrix.shape = {rows, rows == 0 ? 0 : tensor.numel() / rows};
  decode_rows(matrix, 0, rows, result.reshape(matrix.shape));
  return result;
}

}  // namespace flux
