#pragma once

#include "flux/flux.h"
#include "tensor/tensor.h"

namespace flux {

/// [image tokens, channels], of a floating point dtype, in host memory.
struct Latents::Data {
  ConstTensor values;
};

}  // namespace flux
