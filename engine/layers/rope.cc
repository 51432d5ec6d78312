#include "layers/rope.h"

namespace flux {

RopeTable make_rope_table(Context& ctx, const std::vector<ConstTensor>& ids,
                          const std::vector<int64_t>& axes_dims) {
  int64_t half_dim = 0;
  for (const int64_t dim : axes_dims) half_dim += dim / 2;
  int64_t tokens = 0;
  for (const ConstTensor& part : ids) tokens += part.size(0);
  const Tensor cos = ctx.workspace().allocate({tokens, half_dim}, DType::kF32);
  const Tensor sin = ctx.workspace().allocate({tokens, half_dim}, DType::kF32);
  const Workspace::Scope scope(ctx.workspace());
  int64_t begin = 0;
  for (const ConstTensor& part : ids) {
    const int64_t end = begin + part.size(0);
    rope_angles(ctx, to_workspace(ctx, part), {axes_dims}, cos.slice(0, begin, end),
                sin.slice(0, begin, end));
    begin = end;
  }
  return {cos, sin};
}

}  // namespace flux
