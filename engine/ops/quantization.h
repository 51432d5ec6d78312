#pragma once

#include <cstdint>
#include <string_view>

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

}  // namespace flux
