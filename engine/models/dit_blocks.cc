#include "models/dit_blocks.h"

#include <cmath>

namespace flux {
namespace {

constexpr float kNormEps = 1e-6f;
constexpr int64_t kMlpRatio = 4;

RopeTable rows_of(const RopeTable& rope, int64_t begin, int64_t end) {
  return {rope.cos.slice(0, begin, end), rope.sin.slice(0, begin, end)};
}

/// LayerNorm without weights, then * (1 + scale) + shift.
void modulated_norm(Context& ctx, const Tensor& x, const Tensor& shift, const Tensor& scale,
                    const Tensor& out) {
  LayerNormParams params;
  params.scale = scale;
  params.shift = shift;
  params.eps = kNormEps;
  layer_norm(ctx, x, params, out);
}

/// The last rows attend to all. qkv: [tokens, 3 heads, head_dim]; out: [attending rows, inner_dim],
/// rows may be strided.
void joint_attention(Context& ctx, const TransformerConfig& config, const Tensor& qkv,
                     const Tensor& out) {
  const int64_t heads = config.num_attention_heads;
  const int64_t tokens = qkv.size(0);
  const Tensor queries = qkv.slice(0, tokens - out.size(0), tokens).slice(1, 0, heads);
  AttentionOptions options;
  options.scale = 1.0f / std::sqrt(static_cast<float>(config.attention_head_dim));
  attention(ctx, queries, qkv.slice(1, heads, 2 * heads), qkv.slice(1, 2 * heads, 3 * heads),
            options, out.split_last(heads, config.attention_head_dim));
}

}  // namespace

QkvProjection::QkvProjection(Context& ctx, const WeightScope& attn, const TransformerConfig& config,
                             const std::vector<std::string_view>& linears,
                             const std::vector<std::string_view>& norms, DType dtype)
    : linear(ctx, attn, linears, config.inner_dim(), config.inner_dim(), Bias::kYes, dtype),
      norm_q(ctx, attn / norms[0], config.attention_head_dim, kNormEps),
      norm_k(ctx, attn / norms[1], config.attention_head_dim, kNormEps) {}

void QkvProjection::operator()(Context& ctx, const Tensor& x, const RopeTable& rope,
                               const Tensor& out) const {
  const int64_t heads = out.size(1) / 3;
  linear(ctx, x, out.reshape({out.size(0), out.size(1) * out.size(2)}));
  rms_norm_rope(ctx, out.slice(1, 0, heads), norm_q.weight(), norm_q.eps(), rope);
  rms_norm_rope(ctx, out.slice(1, heads, 2 * heads), norm_k.weight(), norm_k.eps(), rope);
}

DoubleBlock::Stream DoubleBlock::load_image_stream(Context& ctx, const WeightScope& scope,
                                                   const TransformerConfig& config, DType dtype) {
  const int64_t dim = config.inner_dim();
  const WeightScope attn = scope / "attn";
  const WeightScope net = scope / "ff" / "net";
  return {Modulation(ctx, scope / "norm1" / "linear", dim, 6, dtype),
          QkvProjection(ctx, attn, config, {"to_q", "to_k", "to_v"}, {"norm_q", "norm_k"}, dtype),
          Linear(ctx, attn / "to_out" / "0", dim, dim, Bias::kYes, dtype),
          Linear(ctx, net / "0" / "proj", dim, kMlpRatio * dim, Bias::kYes, dtype),
          Linear(ctx, net / "2", kMlpRatio * dim, dim, Bias::kYes, dtype)};
}

DoubleBlock::Stream DoubleBlock::load_text_stream(Context& ctx, const WeightScope& scope,
                                                  const TransformerConfig& config, DType dtype) {
  const int64_t dim = config.inner_dim();
  const WeightScope attn = scope / "attn";
  const WeightScope net = scope / "ff_context" / "net";
  return {Modulation(ctx, scope / "norm1_context" / "linear", dim, 6, dtype),
          QkvProjection(ctx, attn, config, {"add_q_proj", "add_k_proj", "add_v_proj"},
                        {"norm_added_q", "norm_added_k"}, dtype),
          Linear(ctx, attn / "to_add_out", dim, dim, Bias::kYes, dtype),
          Linear(ctx, net / "0" / "proj", dim, kMlpRatio * dim, Bias::kYes, dtype),
          Linear(ctx, net / "2", kMlpRatio * dim, dim, Bias::kYes, dtype)};
}

DoubleBlock::DoubleBlock(Context& ctx, const WeightScope& scope, const TransformerConfig& config,
                         DType dtype)
    : config_(config),
      text_(load_text_stream(ctx, scope, config, dtype)),
      image_(load_image_stream(ctx, scope, config, dtype)) {}

void DoubleBlock::forward(Context& ctx, const JointSequence& sequence) const {
  const Workspace::Scope scope(ctx.workspace());
  Workspace& workspace = ctx.workspace();
  const DType dtype = sequence.hidden.dtype();
  const int64_t tokens = sequence.hidden.size(0);
  const int64_t dim = config_.inner_dim();
  const Tensor normed = workspace.allocate({tokens, dim}, dtype);
  const Tensor qkv = workspace.allocate(
      {tokens, 3 * config_.num_attention_heads, config_.attention_head_dim}, dtype);
  const Tensor mlp = workspace.allocate({tokens, kMlpRatio * dim}, dtype);

  struct Part {
    const Stream& stream;
    int64_t begin, end;  // its rows of the sequence
    Tensor modulation;   // [6, inner_dim]
  };
  Part parts[] = {{text_, 0, sequence.text_tokens, {}}, {image_, sequence.text_tokens, tokens, {}}};
  for (Part& part : parts) {
    const auto rows = [&](const Tensor& joint) { return joint.slice(0, part.begin, part.end); };
    part.modulation = part.stream.norm1(ctx, sequence.conditioning);
    modulated_norm(ctx, rows(sequence.hidden), part.modulation[0], part.modulation[1],
                   rows(normed));
    part.stream.qkv(ctx, rows(normed), rows_of(sequence.rope, part.begin, part.end), rows(qkv));
  }
  joint_attention(ctx, config_, qkv, normed);
  for (const Part& part : parts) {
    const auto rows = [&](const Tensor& joint) { return joint.slice(0, part.begin, part.end); };
    const Tensor hidden = rows(sequence.hidden);
    part.stream.to_out(
        ctx, rows(normed), hidden,
        {.activation = Activation::kNone, .gate = part.modulation[2], .residual = hidden});
    modulated_norm(ctx, hidden, part.modulation[3], part.modulation[4], rows(normed));
    part.stream.mlp_up(ctx, rows(normed), rows(mlp),
                       {.activation = Activation::kGeluTanh, .gate = {}, .residual = {}});
    part.stream.mlp_down(
        ctx, rows(mlp), hidden,
        {.activation = Activation::kNone, .gate = part.modulation[5], .residual = hidden});
  }
}

int64_t DoubleBlock::bytes() const {
  int64_t bytes = 0;
  for (const Stream* stream : {&text_, &image_}) {
    bytes += stream->norm1.bytes() + stream->qkv.bytes() + stream->to_out.bytes() +
             stream->mlp_up.bytes() + stream->mlp_down.bytes();
  }
  return bytes;
}

SingleBlock::SingleBlock(Context& ctx, const WeightScope& scope, const TransformerConfig& config,
                         DType dtype)
    : config_(config),
      norm_(ctx, scope / "norm" / "linear", config.inner_dim(), 3, dtype),
      qkv_(ctx, scope / "attn", config, {"to_q", "to_k", "to_v"}, {"norm_q", "norm_k"}, dtype),
      proj_mlp_(ctx, scope / "proj_mlp", config.inner_dim(), kMlpRatio * config.inner_dim(),
                Bias::kYes, dtype),
      proj_out_(ctx, scope / "proj_out", (1 + kMlpRatio) * config.inner_dim(), config.inner_dim(),
                Bias::kYes, dtype) {}

void SingleBlock::forward(Context& ctx, const JointSequence& sequence, int64_t first_row) const {
  const Workspace::Scope scope(ctx.workspace());
  Workspace& workspace = ctx.workspace();
  const int64_t tokens = sequence.hidden.size(0);
  const int64_t dim = config_.inner_dim();
  const DType dtype = sequence.hidden.dtype();
  const Tensor hidden = sequence.hidden.slice(0, first_row, tokens);
  const Tensor normed = workspace.allocate({tokens, dim}, dtype);
  const Tensor qkv = workspace.allocate(
      {tokens, 3 * config_.num_attention_heads, config_.attention_head_dim}, dtype);
  const Tensor joined = workspace.allocate({hidden.size(0), (1 + kMlpRatio) * dim}, dtype);

  const Tensor modulation = norm_(ctx, sequence.conditioning);  // [3, inner_dim]
  modulated_norm(ctx, sequence.hidden, modulation[0], modulation[1], normed);
  qkv_(ctx, normed, sequence.rope, qkv);
  joint_attention(ctx, config_, qkv, joined.slice(1, 0, dim));  // [attention | MLP]
  proj_mlp_(ctx, normed.slice(0, first_row, tokens), joined.slice(1, dim, (1 + kMlpRatio) * dim),
            {.activation = Activation::kGeluTanh, .gate = {}, .residual = {}});
  proj_out_(ctx, joined, hidden,
            {.activation = Activation::kNone, .gate = modulation[2], .residual = hidden});
}

int64_t SingleBlock::bytes() const {
  return norm_.bytes() + qkv_.bytes() + proj_mlp_.bytes() + proj_out_.bytes();
}

}  // namespace flux
