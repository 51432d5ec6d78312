#include "ops/kernels.h"
#include "support/error.h"
#include "tensor/format.h"

namespace flux {

void cast(Context& ctx, const ConstTensor& x, const Tensor& out) {
  const Context::Range range(ctx, "cast");
  check(x.shape() == out.shape() && is_floating_point(x.dtype()) && is_floating_point(out.dtype()),
        ErrorCode::kInternal, "cast: {} to {}", x, out);
  kernels_of(ctx).cast(ctx, x, out);
}

}  // namespace flux
