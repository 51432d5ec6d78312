#include "ops/precision.h"

#include "support/error.h"
#include "support/utf8.h"

namespace flux {

std::string_view name_of(Quantization quantization) {
  return quantization == Quantization::kFp8 ? "fp8" : "none";
}

Quantization parse_quantization(std::string_view name) {
  for (const Quantization known : {Quantization::kNone, Quantization::kFp8}) {
    if (name == name_of(known)) return known;
  }
  fail(ErrorCode::kInvalidArgument, "quantization '{}' is not known: use none or fp8",
       excerpt(name));
}

std::string_view name_of(AttentionPrecision attention) {
  return attention == AttentionPrecision::kFp8 ? "fp8" : "bf16";
}

AttentionPrecision parse_attention(std::string_view name) {
  for (const AttentionPrecision known : {AttentionPrecision::kSame, AttentionPrecision::kFp8}) {
    if (name == name_of(known)) return known;
  }
  fail(ErrorCode::kInvalidArgument, "attention '{}' is not known: use bf16 or fp8", excerpt(name));
}

}  // namespace flux
