#include "layers/modulation.h"

namespace flux {

Modulation::Modulation(Context& ctx, const WeightScope& scope, int64_t features, int64_t chunks,
                       DType dtype)
    : linear_(ctx, scope, features, chunks * features, Bias::kYes, dtype),
      features_(features),
      chunks_(chunks) {}

Tensor Modulation::operator()(Context& ctx, const Tensor& conditioning) const {
  const Tensor result = ctx.workspace().allocate({chunks_, features_}, DType::kF32);
  const Workspace::Scope scope(ctx.workspace());
  const Tensor rounded = ctx.workspace().allocate({1, chunks_ * features_}, conditioning.dtype());
  linear_(ctx, conditioning, rounded);
  cast(ctx, rounded, result.reshape({1, chunks_ * features_}));
  return result;
}

}  // namespace flux
