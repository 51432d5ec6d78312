#pragma once

#include "ops/precision.h"
#include "pipeline/components.h"
#include "weights/tensor_store.h"

namespace flux {

/// Bytes that the weights of a component take at least where they compute.
int64_t least_weight_bytes(Component component, const TensorStore& weights,
                           const Precision& precision);

}  // namespace flux
