#include "tensor/dtype.h"

#include <bit>
#include <cmath>
#include <utility>

#include "support/error.h"
#include "support/utf8.h"

namespace flux {

std::string_view name_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kBF16:
      return "bf16";
    case DType::kF16:
      return "f16";
    case DType::kF64:
      return "f64";
    case DType::kI64:
      return "i64";
    case DType::kI32:
      return "i32";
    case DType::kI16:
      return "i16";
    case DType::kI8:
      return "i8";
    case DType::kU8:
      return "u8";
    case DType::kBool:
      return "bool";
  }
  return "unknown";
}

DType parse_compute_dtype(std::string_view name) {
  // The names of torch, and of command lines elsewhere.
  static constexpr std::pair<std::string_view, DType> kNames[] = {
      {"f32", DType::kF32},     {"float32", DType::kF32},   {"fp32", DType::kF32},
      {"bf16", DType::kBF16},   {"bfloat16", DType::kBF16}, {"f16", DType::kF16},
      {"float16", DType::kF16}, {"fp16", DType::kF16}};
  for (const auto& [known, dtype] : kNames) {
    if (name == known) return dtype;
  }
  fail(ErrorCode::kInvalidArgument,
       "dtype '{}' is not known: use f32 (float32, fp32), bf16 (bfloat16) or f16 (float16, fp16)",
       excerpt(name));
}

bool is_floating_point(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16 ||
         dtype == DType::kF64;
}

BFloat16::BFloat16(float value) {
  const uint32_t word = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) {
    bits = static_cast<uint16_t>((word >> 16) | 0x40u);
  } else {
    bits = static_cast<uint16_t>((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
  }
}

BFloat16::operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

Float16::Float16(float value) {
  const uint32_t word = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((word >> 16) & 0x8000u);
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) {
    bits = sign | 0x7e00u;
  } else if (magnitude >= 65520.0f) {
    bits = sign | 0x7c00u;
  } else if (magnitude < 0x1p-14f) {
    // Subnormal: adding 0.5 puts the value's units of 2^-24 at the end of the mantissa, where the
    // addition itself rounds to nearest even.
    const uint32_t sum = std::bit_cast<uint32_t>(magnitude + 0.5f);
    bits = static_cast<uint16_t>(sign | (sum - std::bit_cast<uint32_t>(0.5f)));
  } else {
    const uint32_t absolute = word & 0x7fffffffu;
    const uint32_t rounded = absolute + 0xfffu + ((absolute >> 13) & 1u);
    bits = static_cast<uint16_t>(sign | ((rounded >> 13) - (112u << 10)));
  }
}

Float16::operator float() const {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  const uint32_t wide = exponent == 31 ? 255u : exponent + 112u;
  return std::bit_cast<float>(sign | (wide << 23) | (mantissa << 13));
}

float round_to(DType dtype, float value) {
  switch (dtype) {
    case DType::kBF16:
      return static_cast<float>(BFloat16(value));
    case DType::kF16:
      return static_cast<float>(Float16(value));
    default:
      return value;
  }
}

}  // namespace flux
