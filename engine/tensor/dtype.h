#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

namespace flux {

/// Element types of tensors. kF32 and kBF16 are computed with; the others are read or indexed.
enum class DType : uint8_t { kF32, kBF16, kF16, kF64, kI64, kI32, kI16, kI8, kU8, kBool };

/// Bytes of one element.
constexpr size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI64:
      return 8;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
    case DType::kI16:
      return 2;
    case DType::kI8:
    case DType::kU8:
    case DType::kBool:
      return 1;
  }
  return 0;
}
/// Name as on the command line, e.g. "bf16".
std::string_view name_of(DType dtype);
/// Parses the name of a compute dtype: "f32", "bf16" or "f16". Throws kInvalidArgument.
DType parse_compute_dtype(std::string_view name);

bool is_floating_point(DType dtype);

/// Storage of one bfloat16: the upper half of a float.
struct BFloat16 {
  uint16_t bits = 0;

  BFloat16() = default;
  /// Rounds to nearest even; NaN stays NaN.
  explicit BFloat16(float value);
  explicit operator float() const;
};

/// Storage of one IEEE half.
struct Float16 {
  uint16_t bits = 0;

  Float16() = default;
  /// Rounds to nearest even, overflows to infinity.
  explicit Float16(float value);
  explicit operator float() const;
};

/// Whether elements of `dtype` are stored as T. Types of one byte fit every dtype, since tensors
/// are also read as bytes; uint16_t are the bits of the 16-bit floats.
template <typename T>
constexpr bool is_type_of(DType dtype) {
  if constexpr (sizeof(T) == 1) return true;
  if constexpr (std::is_same_v<T, float>) return dtype == DType::kF32;
  if constexpr (std::is_same_v<T, double>) return dtype == DType::kF64;
  if constexpr (std::is_same_v<T, BFloat16>) return dtype == DType::kBF16;
  if constexpr (std::is_same_v<T, Float16>) return dtype == DType::kF16;
  if constexpr (std::is_same_v<T, int64_t>) return dtype == DType::kI64;
  if constexpr (std::is_same_v<T, int32_t>) return dtype == DType::kI32;
  if constexpr (std::is_same_v<T, int16_t>) return dtype == DType::kI16;
  if constexpr (std::is_same_v<T, uint16_t>) return dtype == DType::kBF16 || dtype == DType::kF16;
  return false;
}

/// `value` as it reads after being stored as `dtype` (kF32, kBF16 or kF16).
float round_to(DType dtype, float value);

}  // namespace flux
