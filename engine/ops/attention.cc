#include "ops/checks.h"
#include "ops/kernels.h"

namespace flux {

namespace {

void check_encoded(const Context& ctx, const char* name, const ConstTensor& heads,
                   const Shape& shape, const AttentionOptions& options) {
  check(heads.dtype() == DType::kU8 && heads.shape() == shape && options.e4m3, ErrorCode::kInternal,
        "attention: {} is {}, but T or, with scales, e4m3{} is needed", name, heads, shape);
  check_device(ctx, "attention", name, heads);
}

void check_part(const Context& ctx, const AttentionPart& part, const AttentionPart& first,
                const AttentionOptions& options) {
  const auto& [q, k, v, out, out_scales, v_scale] = part;
  check_rank("attention", "q", q, 3);
  check_rank("attention", "k", k, 3);
  const int64_t k_tokens = k.size(0);
  const int64_t heads = first.q.size(1);
  const int64_t head_dim = first.q.size(2);
  const DType dtype = first.v.dtype();
  if (q.dtype() == DType::kU8) {
    check_encoded(ctx, "q", q, {q.size(0), heads, head_dim}, options);
    check_encoded(ctx, "k", k, {k_tokens, heads, head_dim}, options);
  } else {
    check_activation(ctx, "attention", "q", q, dtype, {q.size(0), heads, head_dim});
    check_activation(ctx, "attention", "k", k, dtype, {k_tokens, heads, head_dim});
  }
  check_activation(ctx, "attention", "v", v, dtype, {k_tokens, heads, head_dim});
  if (out_scales.defined()) {
    check_e4m3(ctx, "attention", "out", out, out_scales, q.shape());
  } else {
    check_activation(ctx, "attention", "out", out, dtype, q.shape());
  }
  check(k_tokens >= 1 && head_dim >= 1, ErrorCode::kInternal,
        "attention: k is {}, but at least one key of at least one element is needed", k);
  check(out.raw() != q.raw() && out.raw() != k.raw() && out.raw() != v.raw(), ErrorCode::kInternal,
        "attention: out must not alias q, k or v");
  check(
      options.base == ScoreBase::kE || (options.scale == 1.0f && !options.relative_bias.defined()),
      ErrorCode::kInternal,
      "attention: scores to the base two have the scale {}, but 1 and no relative bias are needed",
      options.scale);
  check_optional_parameter(ctx, "attention", "v_scale", v_scale, {1});
  check_optional_parameter(ctx, "attention", "relative_bias", options.relative_bias,
                           {heads, q.size(0) + k_tokens - 1});
}

}  // namespace

void attention(Context& ctx, const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
               const AttentionOptions& options, const Tensor& out) {
  const AttentionPart part{q, k, v, out, {}, {}};
  attention(ctx, {&part, 1}, options);
}

void attention(Context& ctx, std::span<const AttentionPart> parts,
               const AttentionOptions& options) {
  const Context::Range range(ctx, "attention");
  for (const AttentionPart& part : parts) check_part(ctx, part, parts[0], options);
  if (!parts.empty()) kernels_of(ctx).attention(ctx, parts, options);
}

}  // namespace flux
