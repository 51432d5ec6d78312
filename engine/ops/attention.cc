#include "ops/backend.h"
#include "ops/checks.h"

namespace flux {

void attention(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v,
               const AttentionOptions& options, const Tensor& out) {
  check_rank("attention", "q", q, 3);
  check_rank("attention", "k", k, 3);
  const int64_t q_tokens = q.size(0);
  const int64_t k_tokens = k.size(0);
  const int64_t heads = q.size(1);
  const int64_t head_dim = q.size(2);
  check_activation("attention", "q", q, q.dtype());
  check_activation("attention", "k", k, q.dtype(), {k_tokens, heads, head_dim});
  check_activation("attention", "v", v, q.dtype(), {k_tokens, heads, head_dim});
  check_activation("attention", "out", out, q.dtype(), q.shape());
  check(k_tokens >= 1 && head_dim >= 1, ErrorCode::kInternal,
        "attention: k is {}, but at least one key of at least one element is needed", describe(k));
  check(out.raw() != q.raw() && out.raw() != k.raw() && out.raw() != v.raw(), ErrorCode::kInternal,
        "attention: out must not alias q, k or v");
  check_optional_parameter("attention", "relative_bias", options.relative_bias,
                           {heads, q_tokens + k_tokens - 1});
  ctx.backend().attention(ctx, q, k, v, options, out);
}

}  // namespace flux
