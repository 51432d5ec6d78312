#include "models/dit_blocks.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace flux {
namespace {

constexpr float kNormEps = 1e-6f;
constexpr int64_t kMlpRatio = 4;

/// LayerNorm without weights, then * (1 + scale) + shift.
LayerNormPart modulated_norm(const Tensor& x, const Tensor& shift, const Tensor& scale,
                             const Tensor& out) {
  LayerNormParams params;
  params.scale = scale;
  params.shift = shift;
  params.eps = kNormEps;
  return {x, params, out};
}

/// A sequence's attention, in which its last rows attend to all. qkv: [tokens, 3 heads, head_dim];
/// out: [attending rows, inner_dim], rows may be strided.
AttentionPart joint_attention(const TransformerConfig& config, const Tensor& qkv,
                              const Tensor& out) {
  const int64_t heads = config.num_attention_heads;
  const int64_t tokens = qkv.size(0);
  return {qkv.slice(0, tokens - out.size(0), tokens).slice(1, 0, heads),
          qkv.slice(1, heads, 2 * heads), qkv.slice(1, 2 * heads, 3 * heads),
          out.split_last(heads, config.attention_head_dim)};
}

/// Of the streams that attend to one another.
AttentionOptions attention_options(std::initializer_list<const QkvProjection*> streams) {
  AttentionOptions options;
  options.scale = AttentionOptions::kLn2;
  options.largest_score = 0;
  for (const QkvProjection* queries : streams) {
    for (const QkvProjection* keys : streams) {
      const float largest = largest_product(queries->norm_q, keys->norm_k);
      options.largest_score = std::max(options.largest_score, options.scale * largest);
    }
  }
  return options;
}

Epilogue gelu() { return {.activation = Activation::kGeluTanh, .gate = {}, .residual = {}}; }

/// hidden += gate * result.
Epilogue gated(const Tensor& gate, const Tensor& hidden) {
  return {.activation = Activation::kNone, .gate = gate, .residual = hidden};
}

/// The modulations of all sequences, each [chunks, inner_dim].
std::vector<Tensor> make_modulations(Context& ctx, const Modulation& modulation,
                                     const JointBatch& batch) {
  std::vector<const Conditioning*> conditionings;
  for (const JointSequence& sequence : batch.sequences) {
    conditionings.push_back(&sequence.conditioning);
  }
  return modulation(ctx, conditionings);
}

}  // namespace

QkvProjection::QkvProjection(Context& ctx, const WeightScope& attn, const TransformerConfig& config,
                             const std::vector<std::string_view>& linears,
                             const std::vector<std::string_view>& norms, DType dtype)
    : linear(ctx, attn, linears, config.inner_dim(), config.inner_dim(), Bias::kYes, dtype),
      norm_q(ctx, (attn / norms[0]).take_f32("weight", {config.attention_head_dim}),
             1.0f / (AttentionOptions::kLn2 *
                     std::sqrt(static_cast<float>(config.attention_head_dim)))),
      norm_k(ctx, (attn / norms[1]).take_f32("weight", {config.attention_head_dim}), 1.0f) {}

LinearPart QkvProjection::part(const Tensor& x, const RopeTable& rope, const Tensor& out) const {
  Epilogue epilogue;
  epilogue.norm = {norm_q.weight, norm_k.weight, kNormEps, rope};
  return linear.part(x, out.reshape({out.size(0), out.size(1) * out.size(2)}), epilogue);
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
      image_(load_image_stream(ctx, scope, config, dtype)),
      attention_options_(attention_options({&text_.qkv, &image_.qkv})) {}

/// One stream's rows of a sequence.
struct DoubleBlock::Part {
  const Stream& stream;
  int64_t begin, end;
  Tensor modulation;  // [6, inner_dim]

  Tensor rows(const Tensor& all) const { return all.slice(0, begin, end); }
  RopeTable rows(const RopeTable& all) const { return {rows(all.cos), rows(all.sin)}; }
};

std::vector<DoubleBlock::Part> DoubleBlock::make_parts(Context& ctx,
                                                       const JointBatch& batch) const {
  const std::vector<Tensor> text = make_modulations(ctx, text_.norm1, batch);
  const std::vector<Tensor> image = make_modulations(ctx, image_.norm1, batch);
  std::vector<Part> parts;
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const JointSequence& sequence = batch.sequences[i];
    parts.push_back({text_, sequence.begin, sequence.image, text[i]});
    parts.push_back({image_, sequence.image, sequence.end, image[i]});
  }
  return parts;
}

void DoubleBlock::forward(Context& ctx, const JointBatch& batch) const {
  const Workspace::Scope scope(ctx.workspace());
  Workspace& workspace = ctx.workspace();
  const DType dtype = batch.hidden.dtype();
  const int64_t tokens = batch.hidden.size(0);
  const int64_t dim = config_.inner_dim();
  const Tensor normed = workspace.allocate({tokens, dim}, dtype);
  const Tensor qkv = workspace.allocate(
      {tokens, 3 * config_.num_attention_heads, config_.attention_head_dim}, dtype);
  const Tensor mlp = workspace.allocate({tokens, kMlpRatio * dim}, dtype);
  const std::vector<Part> parts = make_parts(ctx, batch);
  const auto norm_all = [&](int64_t shift, int64_t scale) {
    std::vector<LayerNormPart> norms;
    for (const Part& part : parts) {
      norms.push_back(modulated_norm(part.rows(batch.hidden), part.modulation[shift],
                                     part.modulation[scale], part.rows(normed)));
    }
    layer_norm(ctx, norms);
  };
  const auto linear_all = [&](const auto& part_of) {
    std::vector<LinearPart> linears;
    for (const Part& part : parts) linears.push_back(part_of(part));
    linear(ctx, linears);
  };

  norm_all(0, 1);
  linear_all([&](const Part& p) {
    return p.stream.qkv.part(p.rows(normed), p.rows(batch.rope), p.rows(qkv));
  });
  std::vector<AttentionPart> attentions;
  for (const JointSequence& sequence : batch.sequences) {
    attentions.push_back(joint_attention(config_, sequence.rows(qkv), sequence.rows(normed)));
  }
  attention(ctx, attentions, attention_options_);
  linear_all([&](const Part& p) {
    const Tensor hidden = p.rows(batch.hidden);
    return p.stream.to_out.part(p.rows(normed), hidden, gated(p.modulation[2], hidden));
  });
  norm_all(3, 4);
  linear_all(
      [&](const Part& p) { return p.stream.mlp_up.part(p.rows(normed), p.rows(mlp), gelu()); });
  linear_all([&](const Part& p) {
    const Tensor hidden = p.rows(batch.hidden);
    return p.stream.mlp_down.part(p.rows(mlp), hidden, gated(p.modulation[5], hidden));
  });
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
      attention_options_(attention_options({&qkv_})),
      proj_mlp_(ctx, scope / "proj_mlp", config.inner_dim(), kMlpRatio * config.inner_dim(),
                Bias::kYes, dtype),
      proj_out_(ctx, scope / "proj_out", (1 + kMlpRatio) * config.inner_dim(), config.inner_dim(),
                Bias::kYes, dtype) {}

void SingleBlock::forward(Context& ctx, const JointBatch& batch, Update update) const {
  const Workspace::Scope scope(ctx.workspace());
  Workspace& workspace = ctx.workspace();
  const int64_t tokens = batch.hidden.size(0);
  const int64_t dim = config_.inner_dim();
  const DType dtype = batch.hidden.dtype();
  const Tensor normed = workspace.allocate({tokens, dim}, dtype);
  const Tensor qkv = workspace.allocate(
      {tokens, 3 * config_.num_attention_heads, config_.attention_head_dim}, dtype);
  const Tensor joined = workspace.allocate({tokens, (1 + kMlpRatio) * dim}, dtype);
  const Tensor attended = joined.slice(1, 0, dim);
  const Tensor mlp = joined.slice(1, dim, (1 + kMlpRatio) * dim);
  const std::vector<Tensor> modulations = make_modulations(ctx, norm_, batch);  // [3, inner_dim]

  std::vector<LayerNormPart> norms;
  std::vector<LinearPart> projections;
  std::vector<AttentionPart> attentions;
  std::vector<LinearPart> ups;
  std::vector<LinearPart> outs;
  // Each sequence is a part, although all have the same weights: how a part is computed depends on
  // its rows, and must not depend on other sequences.
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const JointSequence& sequence = batch.sequences[i];
    const auto updated = [&](const Tensor& all) {
      return update == Update::kAll ? sequence.rows(all) : sequence.image_rows(all);
    };
    const Tensor hidden = updated(batch.hidden);
    norms.push_back(modulated_norm(sequence.rows(batch.hidden), modulations[i][0],
                                   modulations[i][1], sequence.rows(normed)));
    projections.push_back(
        qkv_.part(sequence.rows(normed), sequence.rows(batch.rope), sequence.rows(qkv)));
    attentions.push_back(joint_attention(config_, sequence.rows(qkv), updated(attended)));
    ups.push_back(proj_mlp_.part(updated(normed), updated(mlp), gelu()));
    outs.push_back(proj_out_.part(updated(joined), hidden, gated(modulations[i][2], hidden)));
  }
  layer_norm(ctx, norms);
  linear(ctx, projections);
  attention(ctx, attentions, attention_options_);
  linear(ctx, ups);
  linear(ctx, outs);
}

int64_t SingleBlock::bytes() const {
  return norm_.bytes() + qkv_.bytes() + proj_mlp_.bytes() + proj_out_.bytes();
}

}  // namespace flux
