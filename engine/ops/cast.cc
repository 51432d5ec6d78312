#include "ops/kernels.h"
#include "support/error.h"

namespace flux {

void cast(Context& ctx, const Tensor& x, const Tensor& out) {
  check(x.shape() == out.shape() && is_floating_point(x.dtype()) && is_floating_point(out.dtype()),
        ErrorCode::kInternal, "cast: {} to {}", describe(x), describe(out));
  kernels_of(ctx).cast(ctx, x, out);
}

}  // namespace flux
