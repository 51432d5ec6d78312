#include "pipeline/weight_bytes.h"

namespace flux {

int64_t least_weight_bytes(Component component, const TensorStore& weights,
                           const Precision& precision) {
  const int64_t count = weights.parameter_count();
  const bool has_large_linears =
      component == Component::kTransformer || component == Component::kTextEncoder2;
  if (has_large_linears && precision.quantization == Quantization::kFp8) return count;
  // Encoded weights, which take less than 16 bits each, stay as they are stored.
  return weights.bytes() < 2 * count ? weights.bytes()
                                     : count * static_cast<int64_t>(size_of(precision.activations));
}

}  // namespace flux
