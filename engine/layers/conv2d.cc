#include "layers/conv2d.h"

namespace flux {

Conv2d::Conv2d(Context& ctx, const WeightScope& scope, int64_t in, int64_t out, int64_t kernel,
               DType dtype, bool upsample) {
  const Tensor weight = scope.take("weight", {out, in, kernel, kernel});
  weights_ = pack_conv2d(ctx, weight, scope.take("bias", {out}), dtype, upsample);
  scope.drop_pages(weight);
}

}  // namespace flux
