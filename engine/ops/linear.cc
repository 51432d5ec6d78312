#include <cstring>

#include "ops/checks.h"
#include "ops/kernels.h"
#include "runtime/transfer.h"

namespace flux {
namespace {

/// Packing and the library's kernels use 32-bit sizes in places; no model comes near.
constexpr int64_t kMaxFeatures = int64_t{1} << 24;

int64_t check_weights(std::span<const StoredTensor> weights) {
  check(!weights.empty(), ErrorCode::kInternal, "pack_linear: no weights given");
  int64_t out_features = 0;
  for (const StoredTensor& weight : weights) {
    if (weight.is_plain()) check_rank("pack_linear", "weight", weight.data, 2);
    check(weight.defined() && weight.shape.rank() == 2 &&
              (!weight.is_plain() || is_floating_point(weight.data.dtype())) &&
              weight.shape[1] == weights[0].shape[1] && weight.shape[0] >= 1 &&
              weight.shape[1] >= 1,
          ErrorCode::kInternal, "pack_linear: weight is {}{}, but floats [n, {}] are needed",
          weight.type_name(), weight.shape, weights[0].shape[1]);
    out_features += weight.shape[0];
  }
  check(out_features <= kMaxFeatures && weights[0].shape[1] <= kMaxFeatures, ErrorCode::kInternal,
        "pack_linear: {} outputs of {} inputs, but at most {} are supported", out_features,
        weights[0].shape[1], kMaxFeatures);
  return out_features;
}

void check_biases(std::span<const StoredTensor> weights, std::span<const ConstTensor> biases) {
  check(biases.empty() || biases.size() == weights.size(), ErrorCode::kInternal,
        "pack_linear: {} biases for {} weights", biases.size(), weights.size());
  for (size_t i = 0; i < biases.size(); ++i) {
    check(!biases[i].defined() || (is_floating_point(biases[i].dtype()) &&
                                   biases[i].shape() == Shape{weights[i].shape[0]}),
          ErrorCode::kInternal, "pack_linear: bias is {}, but floats [{}] are needed", biases[i],
          weights[i].shape[0]);
  }
}

void check_norm(const Context& ctx, const Epilogue& epilogue, int64_t rows, int64_t columns) {
  const HeadNorm& norm = *epilogue.norm;
  check(epilogue.activation == Activation::kNone && !epilogue.gate.defined() &&
            !epilogue.residual.defined(),
        ErrorCode::kInternal,
        "linear: a norm of heads goes with no activation, gate or residual; leave them out");
  check_rank("linear", "weight_q", norm.weight_q, 1);
  const int64_t head_dim = norm.head_dim();
  check(head_dim >= 1 && head_dim % 2 == 0 && norm.q_heads >= 0 && norm.k_heads >= 0 &&
            norm.q_heads + norm.k_heads >= 1 && norm.q_heads + norm.k_heads <= columns / head_dim,
        ErrorCode::kInternal,
        "linear: {} columns do not begin with {} heads of q and {} of k, each {} columns, an even "
        "number",
        columns, norm.q_heads, norm.k_heads, head_dim);
  check_parameter(ctx, "linear", "weight_q", norm.weight_q, {head_dim});
  check_parameter(ctx, "linear", "weight_k", norm.weight_k, {head_dim});
  check_parameter(ctx, "linear", "cos", norm.rope.cos, {rows, head_dim / 2});
  check_parameter(ctx, "linear", "sin", norm.rope.sin, {rows, head_dim / 2});
  check_optional_parameter(ctx, "linear", "others_scale", norm.others_scale, {1});
  if (!norm.encoded) return;
  const Tensor& numbers = norm.encoded->numbers;
  const Shape shape{rows, (norm.q_heads + norm.k_heads) * head_dim};
  check(numbers.dtype() == DType::kU8 && numbers.shape() == shape && numbers.is_contiguous(),
        ErrorCode::kInternal, "linear: encoded heads are {}, but contiguous e4m3{} is needed",
        numbers, shape);
  check_device(ctx, "linear", "encoded heads", numbers);
}

void check_term(const WeightTerm& term, const LinearWeights& weights) {
  check(term.weights != nullptr && (term.weights->down.packed || term.weights->up),
        ErrorCode::kInternal, "linear: a change is not packed");
  const WeightChange& change = *term.weights;
  const int64_t columns = change.outer.defined() ? change.outer.size(1) : 1;
  check(change.down.in_features * columns == weights.in_features &&
            change.down.dtype == weights.dtype &&
            change.begin + change.out_features <= weights.out_features,
        ErrorCode::kInternal,
        "linear: a change of {} outputs from {} on of {} inputs does not fit weights of {} outputs "
        "of {} inputs",
        change.out_features, change.begin, change.down.in_features * columns, weights.out_features,
        weights.in_features);
}

void check_outputs(const char* op, const WeightChange& change) {
  check(change.begin >= 0 && change.begin + change.out_features <= kMaxFeatures,
        ErrorCode::kInternal, "{}: {} outputs from {} on", op, change.out_features, change.begin);
}

void check_part(const Context& ctx, const LinearPart& part) {
  check(part.weights != nullptr && part.weights->packed != nullptr, ErrorCode::kInternal,
        "linear: weights are not packed");
  const LinearWeights& weights = *part.weights;
  check_rank("linear", "x", part.x, 2);
  const int64_t rows = part.x.size(0);
  const auto& norm = part.epilogue.norm;
  const bool encodes_heads = norm && norm->encoded;
  const int64_t elsewhere = encodes_heads ? (norm->q_heads + norm->k_heads) * norm->head_dim() : 0;
  const Shape result{rows, weights.out_features - elsewhere};
  const bool e4m3_x = part.x.dtype() == DType::kU8;
  const bool e4m3_out = part.out.dtype() == DType::kU8;
  check((!e4m3_x && !e4m3_out && !encodes_heads) || weights.takes_e4m3(), ErrorCode::kInternal,
        "linear: x is {} and out {}, but the weights take no e4m3", part.x, part.out);
  if (e4m3_x) {
    check_e4m3(ctx, "linear", "x", part.x, part.x_scales.scales, {rows, weights.in_features});
  } else {
    check_activation(ctx, "linear", "x", part.x, weights.dtype, {rows, weights.in_features});
  }
  if (e4m3_out) {
    check_e4m3(ctx, "linear", "out", part.out, part.out_scales.scales, result);
    check_parameter(ctx, "linear", "norms of x", part.x_scales.norms, {rows});
    check_optional_parameter(ctx, "linear", "least_scale", part.epilogue.least_scale, {1});
    check(part.epilogue.activation == Activation::kGeluTanh && !part.epilogue.residual.defined(),
          ErrorCode::kInternal, "linear: out is e4m3, which goes with GELU and no residual");
  } else {
    check_activation(ctx, "linear", "out", part.out, weights.dtype, result);
  }
  check_optional_parameter(ctx, "linear", "gate", part.epilogue.gate, {weights.out_features});
  if (part.epilogue.residual.defined()) {
    check_activation(ctx, "linear", "residual", part.epilogue.residual, weights.dtype, result);
  }
  if (part.epilogue.norm) check_norm(ctx, part.epilogue, rows, weights.out_features);
  check(rows == 0 || part.x.raw() != part.out.raw(), ErrorCode::kInternal,
        "linear: out must not alias x");
  check(part.terms.size() <= kMaxWeightTerms, ErrorCode::kInternal,
        "linear: {} changes of the weights, but at most {} are supported", part.terms.size(),
        kMaxWeightTerms);
  for (const WeightTerm& term : part.terms) check_term(term, weights);
}

bool same_heads(const std::optional<HeadNorm>& a, const std::optional<HeadNorm>& b) {
  if (!a || !b) return !a && !b;
  return a->head_dim() == b->head_dim() && a->q_heads == b->q_heads && a->k_heads == b->k_heads &&
         a->encoded.has_value() == b->encoded.has_value();
}

void check_alike(const LinearPart& a, const LinearPart& b) {
  check(a.weights->in_features == b.weights->in_features &&
            a.weights->out_features == b.weights->out_features &&
            a.weights->dtype == b.weights->dtype && a.x.dtype() == b.x.dtype() &&
            a.out.dtype() == b.out.dtype() && a.weights->takes_e4m3() == b.weights->takes_e4m3() &&
            a.epilogue.activation == b.epilogue.activation &&
            a.epilogue.gate.defined() == b.epilogue.gate.defined() &&
            a.epilogue.residual.defined() == b.epilogue.residual.defined() &&
            same_heads(a.epilogue.norm, b.epilogue.norm),
        ErrorCode::kInternal, "linear: parts differ: {} and {}", a.out, b.out);
}

}  // namespace

LinearWeights pack_linear(Context& ctx, std::span<const StoredTensor> weights,
                          std::span<const ConstTensor> biases, DType dtype,
                          Quantization quantization) {
  const int64_t out_features = check_weights(weights);
  check_biases(weights, biases);
  check(dtype == DType::kF32 || dtype == DType::kBF16, ErrorCode::kInternal,
        "pack_linear: dtype {}, but f32 or bf16 is needed", dtype);
  return {weights[0].shape[1], out_features, dtype,
          kernels_of(ctx).pack_linear(ctx, weights, biases, dtype, quantization)};
}

WeightChange pack_low_rank(Context& ctx, const ConstTensor& down, const ConstTensor& up,
                           const ConstTensor& gains, int64_t begin, DType dtype) {
  const StoredTensor stored(down);
  WeightChange change;
  change.begin = begin;
  change.down = pack_linear(ctx, {&stored, 1}, {}, dtype);
  change.out_features = change.rank();
  if (up.defined()) {
    check_rank("pack_low_rank", "up", up, 2);
    check(is_floating_point(up.dtype()) && up.is_contiguous() && up.size(1) == change.rank(),
          ErrorCode::kInternal, "pack_low_rank: up is {}, but contiguous floats [n, {}] are needed",
          up, change.rank());
    change.out_features = up.size(0);
  }
  check(!gains.defined() || (up.defined() && gains.dtype() == DType::kF32 &&
                             gains.is_contiguous() && gains.shape() == Shape{up.size(0)}),
        ErrorCode::kInternal, "pack_low_rank: gains are {}, and up is {}", gains, up);
  if (up.defined()) change.up = kernels_of(ctx).pack_up(ctx, up, gains, begin, dtype);
  check_outputs("pack_low_rank", change);
  return change;
}

WeightChange pack_kronecker(Context& ctx, const ConstTensor& outer, const ConstTensor& inner,
                            int64_t first, int64_t rows, int64_t begin, DType dtype) {
  check_rank("pack_kronecker", "outer", outer, 2);
  check_rank("pack_kronecker", "inner", inner, 2);
  check(first >= 0 && rows > 0 && first + rows <= outer.size(0) * inner.size(0),
        ErrorCode::kInternal, "pack_kronecker: {} rows from {} on of {} (x) {}", rows, first, outer,
        inner);
  const StoredTensor stored(inner);
  WeightChange change;
  change.begin = begin;
  change.out_features = rows;
  change.down = pack_linear(ctx, {&stored, 1}, {}, dtype);
  const Tensor factors = new_tensor(ctx, outer.shape(), DType::kF32);
  copy(ctx, to_dtype(outer, DType::kF32), factors);
  change.outer = factors;
  change.first = first;
  check_outputs("pack_kronecker", change);
  return change;
}

WeightChange pack_bias_change(Context& ctx, const ConstTensor& bias, int64_t in_features,
                              int64_t begin, DType dtype) {
  check_rank("pack_bias_change", "bias", bias, 1);
  WeightChange change;
  change.begin = begin;
  change.out_features = bias.size(0);
  change.down = {in_features, 1, dtype, nullptr};
  // Biases are f32 whatever the dtype.
  change.up = kernels_of(ctx).pack_up(ctx, bias.reshape({bias.size(0), 1}), {}, begin, DType::kF32);
  return change;
}

void linear(Context& ctx, const ConstTensor& x, const LinearWeights& weights,
            const Epilogue& epilogue, const Tensor& out) {
  const LinearPart part{x, &weights, epilogue, out};
  linear(ctx, {&part, 1});
}

void linear(Context& ctx, std::span<const LinearPart> parts) {
  const Context::Range range(ctx, "linear");
  bool any = false;
  for (const LinearPart& part : parts) {
    check_part(ctx, part);
    check_alike(parts[0], part);
    any |= part.x.size(0) > 0;
  }
  if (any) kernels_of(ctx).linear(ctx, parts);
}

Tensor stack_biases(std::span<const StoredTensor> weights, std::span<const ConstTensor> biases) {
  int64_t total = 0;
  bool any = false;
  for (size_t i = 0; i < weights.size(); ++i) {
    total += weights[i].shape[0];
    any = any || (i < biases.size() && biases[i].defined());
  }
  if (!any) return {};
  const Tensor stacked = Tensor::allocate({total}, DType::kF32);
  int64_t begin = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    const Tensor part = stacked.slice(0, begin, begin + weights[i].shape[0]);
    if (biases[i].defined()) {
      copy_convert(biases[i], part);
    } else {
      std::memset(part.raw(), 0, static_cast<size_t>(part.bytes()));
    }
    begin += weights[i].shape[0];
  }
  return stacked;
}

void norm_heads(Context& ctx, const HeadNorm& norm, const Tensor& out) {
  const int64_t q_and_k = norm.q_heads + norm.k_heads;
  const Tensor heads =
      out.slice(1, 0, q_and_k * norm.head_dim()).split_last(q_and_k, norm.head_dim());
  Kernels& kernels = kernels_of(ctx);
  if (norm.q_heads > 0) {
    const Tensor q = heads.slice(1, 0, norm.q_heads);
    kernels.rms_norm_rope(ctx, q, norm.weight_q, norm.eps, norm.rope);
  }
  if (norm.k_heads > 0) {
    const Tensor k = heads.slice(1, norm.q_heads, q_and_k);
    kernels.rms_norm_rope(ctx, k, norm.weight_k, norm.eps, norm.rope);
  }
}

}  // namespace flux
