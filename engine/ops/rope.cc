#include "ops/checks.h"
#include "ops/kernels.h"

namespace flux {

void rope_angles(Context& ctx, const ConstTensor& positions, const RopeAxes& axes,
                 const Tensor& cos, const Tensor& sin) {
  const Context::Range range(ctx, "rope_angles");
  int64_t pairs = 0;
  for (const int64_t dim : axes.dims) pairs += dim / 2;
  check_rank("rope_angles", "positions", positions, 2);
  const int64_t tokens = positions.size(0);
  check_parameter(ctx, "rope_angles", "positions", positions, {tokens, std::ssize(axes.dims)});
  check_parameter(ctx, "rope_angles", "cos", cos, {tokens, pairs});
  check_parameter(ctx, "rope_angles", "sin", sin, {tokens, pairs});
  if (tokens > 0) kernels_of(ctx).rope_angles(ctx, positions, axes, cos, sin);
}

}  // namespace flux
