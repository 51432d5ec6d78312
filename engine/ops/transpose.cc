#include "ops/checks.h"
#include "ops/kernels.h"

namespace flux {

void transpose(Context& ctx, const ConstTensor& x, const Tensor& out) {
  const Context::Range range(ctx, "transpose");
  check_rank("transpose", "x", x, 2);
  check_activation(ctx, "transpose", "x", x, x.dtype());
  check(out.shape() == Shape{x.size(1), x.size(0)} &&
            (out.dtype() == x.dtype() || out.dtype() == DType::kF32),
        ErrorCode::kInternal, "transpose: {} to {}", x, out);
  check_contiguous("transpose", "x", x);
  check_contiguous("transpose", "out", out);
  if (x.numel() > 0) kernels_of(ctx).transpose(ctx, x, out);
}

}  // namespace flux
