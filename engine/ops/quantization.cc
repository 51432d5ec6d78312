#include "ops/quantization.h"

#include "support/error.h"

namespace flux {

std::string_view name_of(Quantization quantization) {
  return quantization == Quantization::kFp8 ? "fp8" : "none";
}

Quantization parse_quantization(std::string_view name) {
  for (const Quantization known : {Quantization::kNone, Quantization::kFp8}) {
    if (name == name_of(known)) return known;
  }
  fail(ErrorCode::kInvalidArgument, "quantization '{}' is not known: use none or fp8", name);
}

}  // namespace flux
