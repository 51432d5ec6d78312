#include "layers/modulation.h"

namespace flux {

Modulation::Modulation(Context& ctx, const WeightScope& scope, int64_t features, int64_t chunks,
                       DType dtype)
    : linear_(ctx, scope, features, chunks * features, Bias::kYes, dtype),
      features_(features),
      chunks_(chunks) {}

void Modulation::make(Context& ctx, const Tensor& rows, const Tensor& out) const {
  const Workspace::Scope scope(ctx.workspace());
  const Shape flat{rows.size(0), chunks_ * features_};
  const Tensor rounded = ctx.workspace().allocate(flat, rows.dtype());
  linear_(ctx, rows, rounded);
  cast(ctx, rounded, out.reshape(flat));
}

Tensor Modulation::operator()(Context& ctx, const Conditioning& conditioning) const {
  if (conditioning.kept == nullptr) {
    const Tensor result = ctx.workspace().allocate({1, chunks_, features_}, DType::kF32);
    make(ctx, conditioning.rows.slice(0, conditioning.step, conditioning.step + 1), result);
    return result[0];
  }
  Tensor& all = (*conditioning.kept)[this];
  if (!all.defined()) {
    all = new_tensor(ctx, {conditioning.rows.size(0), chunks_, features_}, DType::kF32);
    make(ctx, conditioning.rows, all);
  }
  return all[conditioning.step];
}

}  // namespace flux
