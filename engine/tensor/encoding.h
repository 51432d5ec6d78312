#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "support/file_bytes.h"
#include "tensor/tensor.h"

namespace flux {

/// How the values of a row are stored where that is not one element for each.
enum class Encoding : uint8_t {
  kPlain,   // elements of a DType
  kF8E4M3,  // bytes, times a scale
  // GGUF's blocks, named as there.
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ2K,
  kQ3K,
  kQ4K,
  kQ5K,
  kQ6K,
};

/// What is known of an encoding, in the order of Encoding.
struct EncodingInfo {
  Encoding encoding;
  std::string_view name;
  int64_t block_values;  // of a row that are stored together; rows hold whole blocks
  int64_t block_bytes;
};
inline constexpr EncodingInfo kEncodings[] = {
    {Encoding::kPlain, "plain", 1, 0},  // bytes as the dtype says
    {Encoding::kF8E4M3, "F8_E4M3", 1, 1}, {Encoding::kQ4_0, "Q4_0", 32, 18},
    {Encoding::kQ4_1, "Q4_1", 32, 20},    {Encoding::kQ5_0, "Q5_0", 32, 22},
    {Encoding::kQ5_1, "Q5_1", 32, 24},    {Encoding::kQ8_0, "Q8_0", 32, 34},
    {Encoding::kQ2K, "Q2_K", 256, 84},    {Encoding::kQ3K, "Q3_K", 256, 110},
    {Encoding::kQ4K, "Q4_K", 256, 144},   {Encoding::kQ5K, "Q5_K", 256, 176},
    {Encoding::kQ6K, "Q6_K", 256, 210},
};
constexpr const EncodingInfo& info_of(Encoding encoding) {
  return kEncodings[static_cast<size_t>(encoding)];
}

/// Decodes `blocks` blocks of an encoding (not kPlain) into float32: bit for bit what `dequantize`
/// of the Python package `gguf` gives, and for kF8E4M3 the numbers as they are. Sources: ggml's
/// block layouts; OCP's 8-bit floating point format E4M3.
void decode_blocks(Encoding encoding, const uint8_t* source, int64_t blocks, float* values);

inline constexpr float kLargestE4M3 = 448.0f;
/// The number of E4M3 nearest to a value, ties to even; at most the largest one. NaN is kept.
uint8_t encode_e4m3(float value);

/// A tensor as a file stores it.
struct StoredTensor {
  StoredTensor() = default;
  /// A plain tensor stands for itself.
  StoredTensor(ConstTensor tensor)  // NOLINT(google-explicit-constructor)
      : shape(tensor.shape()), data(std::move(tensor)) {}
  StoredTensor(const Tensor& tensor)  // NOLINT(google-explicit-constructor)
      : StoredTensor(ConstTensor(tensor)) {}
  /// Blocks of an encoding: `bytes` is u8 [rows, bytes of a row], rows being all dimensions of
  /// `values` but the last.
  StoredTensor(Encoding stored_as, const Shape& values, ConstTensor bytes)
      : encoding(stored_as), shape(values), data(std::move(bytes)) {}

  bool defined() const { return data.defined(); }
  bool is_plain() const { return encoding == Encoding::kPlain; }
  /// Rows: all dimensions of `shape` but the last.
  int64_t rows() const;
  int64_t numel() const { return shape.numel(); }
  int64_t bytes() const { return data.bytes(); }
  /// What the numbers of a row are multiplied with.
  float scale_of(int64_t row) const {
    return scales.defined() ? scales.data<float>()[scales.numel() > 1 ? row : 0] : 1.0f;
  }
  /// Name of the stored type, e.g. "bf16" or "Q4_K".
  std::string_view type_name() const;

  Encoding encoding = Encoding::kPlain;
  Shape shape;       // of the values
  ConstTensor data;  // host memory, or its place in `file`
  /// The file that the bytes of `data` are still to be read from, by one of the functions below.
  /// Null: they are in memory.
  std::shared_ptr<const FileBytes> file;
  /// What the values of kF8E4M3 are multiplied with: f32 [1], or [rows]. Undefined: nothing.
  ConstTensor scales;
};

/// Copies the bytes of a tensor to `to`, or reads them from its file, by up to `threads` threads.
/// Throws as FileBytes::read().
void copy_bytes(const StoredTensor& tensor, void* to, int threads);

/// The tensor in host memory, contiguous: itself where it is there. Throws as copy_bytes().
StoredTensor in_memory(const StoredTensor& tensor, int threads = 1);

/// As copy_convert(), for contiguous elements with their place in `file`, which may be null.
void read_convert(const ConstTensor& from, const FileBytes* file, const Tensor& to);

/// Rows [begin, end) along the first dimension; shares the data.
StoredTensor slice(const StoredTensor& tensor, int64_t begin, int64_t end);

/// Decodes rows [begin, end) of a tensor of two dimensions into `out`, [end - begin, columns] of a
/// floating point dtype, in host memory; rows may be strided. The tensor is in memory.
void decode_rows(const StoredTensor& tensor, int64_t begin, int64_t end, const Tensor& out);

/// The values in `dtype`, rounded once from float32 (a plain tensor: from its own dtype).
/// Contiguous host memory. Throws kInvalidArgument for a dtype that values cannot be converted to,
/// and as copy_bytes().
Tensor decode(const StoredTensor& tensor, DType dtype);

}  // namespace flux
