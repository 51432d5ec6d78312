#include "tensor/encoding.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "support/error.h"
#include "support/parts.h"
#include "tensor/block_decoders.h"
#include "tensor/format.h"

namespace flux {

void decode_blocks(Encoding encoding, const uint8_t* source, int64_t blocks, float* values) {
  const EncodingInfo& info = info_of(encoding);
  const auto decode = block_decoder(encoding);
  for (int64_t i = 0; i < blocks; ++i) {
    decode(source + i * info.block_bytes, values + i * info.block_values);
  }
}

uint8_t encode_e4m3(float value) {
  constexpr float kSmallestNormal = 0x1p-6f;
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint8_t>(bits >> 24 & 0x80);
  if (std::isnan(value)) return sign | 0x7f;
  const float size = std::min(std::abs(value), kLargestE4M3);
  if (size < kSmallestNormal) {  // steps of 2^-9
    return static_cast<uint8_t>(sign | static_cast<uint8_t>(std::nearbyint(size * 0x1p9f)));
  }
  // The exponent's bias is 7 in place of 127, and 20 bits of the fraction are rounded off.
  const uint32_t moved = std::bit_cast<uint32_t>(size) - (120u << 23);
  return static_cast<uint8_t>(sign | (moved + 0x7ffff + (moved >> 20 & 1)) >> 20);
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
  const int64_t rows = whole == 0 ? 0 : tensor.rows() / whole;  // for each of the first dimension
  part.data = tensor.data.slice(0, begin * rows, end * rows);
  if (tensor.scales.defined() && tensor.scales.numel() > 1) {
    part.scales = tensor.scales.slice(0, begin * rows, end * rows);
  }
  return part;
}

void copy_bytes(const StoredTensor& tensor, void* to, int threads) {
  constexpr int64_t kWorthAThread = int64_t{1} << 20;
  constexpr int kMostThreads = 8;
  check(tensor.data.is_contiguous(), ErrorCode::kInternal, "copy of the bytes of {}", tensor.data);
  const auto* from = static_cast<const std::byte*>(tensor.data.raw());
  const int64_t bytes = tensor.bytes();
  const int64_t useful = std::max<int64_t>(1, bytes / kWorthAThread);
  const int64_t parts = std::min<int64_t>({threads, kMostThreads, useful});
  for_each_part(parts, [&](int64_t i) {
    const int64_t begin = bytes * i / parts;
    const auto size = static_cast<size_t>(bytes * (i + 1) / parts - begin);
    auto* const part = static_cast<std::byte*>(to) + begin;
    if (tensor.file) {
      tensor.file->read(from + begin, size, part);
    } else {
      std::memcpy(part, from + begin, size);
    }
  });
}

StoredTensor in_memory(const StoredTensor& tensor, int threads) {
  if (!tensor.file && tensor.data.is_contiguous()) return tensor;
  StoredTensor result = tensor;
  result.file = nullptr;
  if (tensor.file) {
    const Tensor data = Tensor::allocate(tensor.data.shape(), tensor.data.dtype());
    copy_bytes(tensor, data.raw(), threads);
    result.data = data;
  } else {
    result.data = to_dtype(tensor.data, tensor.data.dtype());
  }
  return result;
}

void read_convert(const ConstTensor& from, const FileBytes* file, const Tensor& to) {
  constexpr int64_t kAtOnce = int64_t{64} << 10;  // elements that stay in the cache
  if (file == nullptr) return copy_convert(from, to);
  if (from.dtype() == to.dtype()) {
    return file->read(from.raw(), static_cast<size_t>(from.bytes()), to.raw());
  }
  const int64_t count = from.numel();
  const ConstTensor source = from.reshape({count});
  const Tensor target = to.reshape({count});
  const Tensor buffer = Tensor::allocate({std::min(count, kAtOnce)}, from.dtype());
  for (int64_t begin = 0; begin < count; begin += kAtOnce) {
    const int64_t end = std::min(count, begin + kAtOnce);
    const Tensor part = buffer.slice(0, 0, end - begin);
    file->read(source.slice(0, begin, end).raw(), static_cast<size_t>(part.bytes()), part.raw());
    copy_convert(part, target.slice(0, begin, end));
  }
}

void decode_rows(const StoredTensor& tensor, int64_t begin, int64_t end, const Tensor& out) {
  check(!tensor.file, ErrorCode::kInternal, "decoding of a tensor that has not been read");
  if (tensor.is_plain()) return copy_convert(tensor.data.slice(0, begin, end), out);
  const int64_t columns = out.size(1);
  const int64_t blocks = columns / info_of(tensor.encoding).block_values;
  std::vector<float> values(static_cast<size_t>(columns));
  for (int64_t row = begin; row < end; ++row) {
    decode_blocks(tensor.encoding, tensor.data[row].data<uint8_t>(), blocks, values.data());
    if (tensor.scales.defined()) {
      const float scale = tensor.scale_of(row);
      for (float& value : values) value *= scale;
    }
    copy_convert(Tensor(values.data(), DType::kF32, {columns}), out[row - begin]);
  }
}

Tensor decode(const StoredTensor& tensor, DType dtype) {
  if (tensor.file) return decode(in_memory(tensor), dtype);
  if (tensor.is_plain()) return to_dtype(tensor.data, dtype);
  const Tensor result = Tensor::allocate(tensor.shape, dtype);
  const int64_t rows = tensor.rows();
  StoredTensor matrix = tensor;
  matrix.shape = {rows, rows == 0 ? 0 : tensor.numel() / rows};
  decode_rows(matrix, 0, rows, result.reshape(matrix.shape));
  return result;
}

}  // namespace flux
