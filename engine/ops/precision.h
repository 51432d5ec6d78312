#pragma once

#include <cstdint>
#include <string_view>

#include "tensor/dtype.h"

namespace flux {

/// What the products of a linear are computed of.
enum class Quantization : uint8_t {
  kNone,  // T
  /// e4m3, with a scale for each row of the weight and each row of x. Devices without such products
  /// compute in T with the weights' values.
  kFp8,
};

/// Name as on the command line: "none" or "fp8".
std::string_view name_of(Quantization quantization);
/// Parses such a name. Throws kInvalidArgument.
Quantization parse_quantization(std::string_view name);

/// What the transformer's attention is computed of.
enum class AttentionPrecision : uint8_t {
  kSame,  // T
  kFp8,   // e4m3, see AttentionOptions. Devices without such products compute in T.
};

/// Name as on the command line: "bf16", although T may be f32, or "fp8".
std::string_view name_of(AttentionPrecision attention);
/// Parses such a name. Throws kInvalidArgument.
AttentionPrecision parse_attention(std::string_view name);

/// What a model computes in.
struct Precision {
  DType activations = DType::kF32;                           // T of the ops: f32 or bf16
  Quantization quantization = Quantization::kNone;           // of the large linears
  AttentionPrecision attention = AttentionPrecision::kSame;  // of the transformer
};

}  // namespace flux
