#include "layers/conv2d.h"

namespace flux {

Conv2d::Conv2d(const Loader& load, int64_t in, int64_t out, int64_t kernel, ConvSize size) {
  const WeightScope& scope = load.weights();
  const ConstTensor weight = scope.take("weight", {out, in, kernel, kernel});
  weights_ = pack_conv2d(load.context(), weight, scope.take("bias", {out}), load.dtype(), size);
}

}  // namespace flux
