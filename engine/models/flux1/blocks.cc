#include "models/flux1/blocks.h"

#include <algorithm>
#include <cmath>

#include "ops/kernels.h"

namespace flux {
namespace {

constexpr float kNormEps = 1e-6f;
constexpr int64_t kMlpRatio = 4;

/// The scales of queries and keys as e4m3. Nothing where a weight of their norms is not finite.
std::optional<AttentionOptions::E4M3> e4m3_scales(
    std::initializer_list<const QkvProjection*> streams) {
  AttentionOptions::E4M3 scales{0.0f, 0.0f};
  for (const QkvProjection* stream : streams) {
    scales.q_scale = std::max(scales.q_scale, largest_element(stream->norm_q) / kLargestE4M3);
    scales.k_scale = std::max(scales.k_scale, largest_element(stream->norm_k) / kLargestE4M3);
  }
  if (!std::isfinite(scales.q_scale * scales.k_scale)) return {};
  return scales;
}

/// Attention options of streams that attend to one another.
AttentionOptions attention_options(const Loader& load,
                                   std::initializer_list<const QkvProjection*> streams) {
  AttentionOptions options;
  if (load.attention() == AttentionPrecision::kFp8) options.e4m3 = e4m3_scales(streams);
  options.base = ScoreBase::kTwo;
  options.bound = 0.0f;
  for (const QkvProjection* queries : streams) {
    for (const QkvProjection* keys : streams) {
      const float largest = largest_product(queries->norm_q, keys->norm_k);
      options.bound = std::max(*options.bound, largest);
    }
  }
  return options;
}

/// What linears multiply: T, or e4m3 where they take it.
struct Activations {
  Tensor values;     // [tokens, columns]
  RowScales scales;  // of e4m3

  static Activations allocate(Context& ctx, const Shape& shape, DType dtype, bool e4m3) {
    Workspace& workspace = ctx.workspace();
    if (!e4m3) return {workspace.allocate(shape, dtype), {}};
    return {
        workspace.allocate(shape, DType::kU8),
        {workspace.allocate({shape[0]}, DType::kF32), workspace.allocate({shape[0]}, DType::kF32)}};
  }
  Activations rows(int64_t begin, int64_t end) const {
    return {values.slice(0, begin, end), scales.slice(begin, end)};
  }
  /// The columns [begin, end), which have the scales of the whole rows.
  Activations columns(int64_t begin, int64_t end) const {
    return {values.slice(1, begin, end), scales};
  }
};

/// Queries, keys and values of a batch's tokens: columns q | k | v of heads x head_dim.
struct Heads {
  Tensor values;   // [tokens, columns], T
  Tensor encoded;  // undefined, or q and k as attention in e4m3 takes them: then values has v alone

  /// `encodes`: whether the linear gives q and k encoded.
  static Heads allocate(Context& ctx, int64_t tokens, int64_t dim, DType dtype, bool encodes) {
    Workspace& workspace = ctx.workspace();
    if (!encodes) return {workspace.allocate({tokens, 3 * dim}, dtype), {}};
    return {workspace.allocate({tokens, dim}, dtype),
            workspace.allocate({tokens, 2 * dim}, DType::kU8)};
  }
  Heads rows(int64_t begin, int64_t end) const {
    return {values.slice(0, begin, end),
            encoded.defined() ? encoded.slice(0, begin, end) : encoded};
  }
};

/// Whether the linear of queries, keys and values gives them as attention in e4m3 takes them.
bool encodes_heads(const Context& ctx, const FluxTransformerConfig& config, const Linear& linear,
                   const AttentionOptions& options) {
  return options.e4m3 && linear.takes_e4m3() &&
         kernels_of(ctx).encodes_heads(config.attention_head_dim);
}

/// The attention of one sequence, in which its last rows are the queries. out: [queries,
/// inner_dim], rows may be strided.
AttentionPart joint_attention(const FluxTransformerConfig& config, const Heads& sequence,
                              const ConstTensor& v_scale, const Tensor& out,
                              const ConstTensor& out_scales) {
  const int64_t heads = config.num_attention_heads;
  const int64_t dim = config.attention_head_dim;
  const int64_t tokens = sequence.values.size(0);
  const bool encoded = sequence.encoded.defined();
  const Tensor others = sequence.values.split_last(encoded ? heads : 3 * heads, dim);
  const Tensor qk = encoded ? sequence.encoded.split_last(2 * heads, dim) : others;
  return {qk.slice(0, tokens - out.size(0), tokens).slice(1, 0, heads),
          qk.slice(1, heads, 2 * heads),
          encoded ? others : others.slice(1, 2 * heads, 3 * heads),
          out.split_last(heads, dim),
          out_scales,
          v_scale};
}

/// `linear` of activations, with a result of T.
LinearPart part_of(const Linear& linear, const Activations& x, Adapters adapters, const Tensor& out,
                   const Epilogue& epilogue) {
  LinearPart part = linear.part(x.values, out, epilogue, adapters);
  part.x_scales = x.scales;
  return part;
}

/// The linear of queries, keys and values.
LinearPart qkv_part(const QkvProjection& qkv, const Activations& x, Adapters adapters,
                    Epilogue epilogue, const AttentionOptions& options, const Heads& out) {
  if (out.encoded.defined()) {
    epilogue.norm->encoded = {out.encoded, options.e4m3->q_scale, options.e4m3->k_scale};
  }
  return part_of(qkv.linear, x, adapters, out.values, epilogue);
}

/// gelu(linear(x)), the scales of whose rows, where there are some, are not below `least_scale`.
LinearPart gelu_part(const Linear& linear, const Activations& x, Adapters adapters,
                     const Activations& out, const ConstTensor& least_scale) {
  Epilogue gelu;
  gelu.activation = Activation::kGeluTanh;
  gelu.least_scale = least_scale;
  LinearPart part = part_of(linear, x, adapters, out.values, gelu);
  part.out_scales = out.scales;
  return part;
}

/// LayerNorm without weights, then * (1 + scale) + shift.
LayerNormPart modulated_norm(const ConstTensor& x, const Modulated& by, const Activations& out) {
  LayerNormParams params;
  params.scale = by.scale;
  params.shift = by.shift;
  params.eps = kNormEps;
  return {x, params, out.values, out.scales};
}

/// hidden += gate * result.
Epilogue gated(const ConstTensor& gate, const Tensor& hidden) {
  return {.activation = Activation::kNone, .gate = gate, .residual = hidden};
}

/// The modulations of all sequences, each [chunks, inner_dim].
std::vector<ConstTensor> make_modulations(Context& ctx, const Modulation& modulation,
                                          const JointBatch& batch) {
  std::vector<const Conditioning*> conditionings;
  for (const JointSequence& sequence : batch.sequences) {
    conditionings.push_back(&sequence.conditioning);
  }
  return modulation(ctx, conditionings);
}

/// One op over all segments of a batch, as parts that the device may compute together. The result
/// of a segment does not depend on the others, not even through the way in which it is computed.
template <typename Segment, typename PartOf>
void norm_each(Context& ctx, const std::vector<Segment>& segments, const PartOf& part_of) {
  std::vector<LayerNormPart> parts;
  for (const Segment& segment : segments) parts.push_back(part_of(segment));
  layer_norm(ctx, parts);
}

template <typename Segment, typename PartOf>
void linear_each(Context& ctx, const std::vector<Segment>& segments, const PartOf& part_of) {
  std::vector<LinearPart> parts;
  for (const Segment& segment : segments) parts.push_back(part_of(segment));
  linear(ctx, parts);
}

/// A linear that the precision's quantization is meant for.
Linear large_linear(const Loader& load, int64_t in, int64_t out) {
  return {load, in, out, Bias::kYes, load.quantization()};
}

RopeTable rows_of(const RopeTable& rope, int64_t begin, int64_t end) {
  return {rope.cos.slice(0, begin, end), rope.sin.slice(0, begin, end)};
}

}  // namespace

QkvProjection::QkvProjection(const Loader& attn, const FluxTransformerConfig& config,
                             const std::vector<std::string_view>& linears,
                             const std::vector<std::string_view>& norms)
    : linear(attn, linears, config.inner_dim(), config.inner_dim(), Bias::kYes,
             attn.quantization()),
      norm_q(attn.context(),
             (attn / norms[0]).weights().take_f32("weight", {config.attention_head_dim}),
             1.0f / (AttentionOptions::kLn2 *
                     std::sqrt(static_cast<float>(config.attention_head_dim)))),
      norm_k(attn.context(),
             (attn / norms[1]).weights().take_f32("weight", {config.attention_head_dim}), 1.0f) {}

Epilogue QkvProjection::epilogue(int64_t heads, const RopeTable& rope,
                                 const Tensor& value_scale) const {
  Epilogue epilogue;
  epilogue.norm = {norm_q.weight, norm_k.weight, kNormEps, rope, heads, heads, value_scale};
  return epilogue;
}

/// The rows of one stream in one sequence.
struct FluxTransformerBlock::Segment {
  const Stream& weights;
  size_t sequence;
  int64_t begin, end;
  Modulated attention;
  Modulated mlp;
  Adapters adapters;

  Tensor rows(const Tensor& all) const { return all.slice(0, begin, end); }
  Activations rows(const Activations& all) const { return all.rows(begin, end); }
};

FluxTransformerBlock::FluxTransformerBlock(const Loader& load, const FluxTransformerConfig& config,
                                           size_t modulation)
    : config_(config) {
  const int64_t dim = config.inner_dim();
  const Loader attn = load / "attn";
  text_.norm1 = Modulation(load / "norm1_context" / "linear", dim, 6, modulation);
  text_.qkv = QkvProjection(attn, config, {"add_q_proj", "add_k_proj", "add_v_proj"},
                            {"norm_added_q", "norm_added_k"});
  text_.to_out = large_linear(attn / "to_add_out", dim, dim);
  text_.mlp_up = large_linear(load / "ff_context" / "net" / "0" / "proj", dim, kMlpRatio * dim);
  text_.mlp_down = large_linear(load / "ff_context" / "net" / "2", kMlpRatio * dim, dim);
  image_.norm1 = Modulation(load / "norm1" / "linear", dim, 6, modulation + 1);
  image_.qkv = QkvProjection(attn, config, {"to_q", "to_k", "to_v"}, {"norm_q", "norm_k"});
  image_.to_out = large_linear(attn / "to_out" / "0", dim, dim);
  image_.mlp_up = large_linear(load / "ff" / "net" / "0" / "proj", dim, kMlpRatio * dim);
  image_.mlp_down = large_linear(load / "ff" / "net" / "2", kMlpRatio * dim, dim);
  attention_options_ = attention_options(load, {&text_.qkv, &image_.qkv});
}

std::vector<FluxTransformerBlock::Segment> FluxTransformerBlock::make_segments(
    Context& ctx, const JointBatch& batch) const {
  const std::vector<ConstTensor> text = make_modulations(ctx, text_.norm1, batch);
  const std::vector<ConstTensor> image = make_modulations(ctx, image_.norm1, batch);
  std::vector<Segment> segments;
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const JointSequence& sequence = batch.sequences[i];
    const Adapters adapters = sequence.conditioning.adapters;
    segments.push_back({text_, i, sequence.begin, sequence.image, Modulated::of(text[i], 0),
                        Modulated::of(text[i], 3), adapters});
    segments.push_back({image_, i, sequence.image, sequence.end, Modulated::of(image[i], 0),
                        Modulated::of(image[i], 3), adapters});
  }
  return segments;
}

void FluxTransformerBlock::forward(Context& ctx, const JointBatch& batch, size_t block) const {
  const Workspace::Scope scope(ctx.workspace());
  const Tensor& hidden = batch.hidden;  // [tokens, dim]
  const DType dtype = hidden.dtype();
  const int64_t tokens = hidden.size(0);
  const int64_t dim = config_.inner_dim();
  const int64_t heads = config_.num_attention_heads;
  const bool e4m3 = takes_e4m3();
  const auto normed = Activations::allocate(ctx, {tokens, dim}, dtype, e4m3);
  const bool encodes = encodes_heads(ctx, config_, image_.qkv.linear, attention_options_);
  const auto qkv = Heads::allocate(ctx, tokens, dim, dtype, encodes);
  const auto mlp = Activations::allocate(ctx, {tokens, kMlpRatio * dim}, dtype, e4m3);
  const std::vector<Segment> segments = make_segments(ctx, batch);

  // hidden += gate * to_out(attention(norm(hidden)))
  norm_each(ctx, segments, [&](const Segment& s) {  // [tokens, dim]
    return modulated_norm(s.rows(hidden), s.attention, s.rows(normed));
  });
  linear_each(ctx, segments, [&](const Segment& s) {  // [tokens, q | k | v of heads x head_dim]
    const RopeTable rope = rows_of(batch.rope, s.begin, s.end);
    const Epilogue epilogue =
        s.weights.qkv.epilogue(heads, rope, batch.value_scale(block, s.sequence));
    return qkv_part(s.weights.qkv, s.rows(normed), s.adapters, epilogue, attention_options_,
                    qkv.rows(s.begin, s.end));
  });
  // A mean of values suits their scale.
  std::vector<AttentionPart> attentions;  // [tokens, dim], text and image of a sequence jointly
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const JointSequence& sequence = batch.sequences[i];
    const Tensor scale = batch.value_scale(block, i);
    attentions.push_back(joint_attention(config_, qkv.rows(sequence.begin, sequence.end), scale,
                                         sequence.rows(normed.values), scale));
  }
  attention(ctx, attentions, attention_options_);
  linear_each(ctx, segments, [&](const Segment& s) {  // [tokens, dim]
    const Tensor out = s.rows(hidden);
    const Activations attended{s.rows(normed.values), {batch.value_scale(block, s.sequence), {}}};
    return part_of(s.weights.to_out, attended, s.adapters, out, gated(s.attention.gate, out));
  });

  // hidden += gate * mlp(norm(hidden))
  norm_each(ctx, segments, [&](const Segment& s) {  // [tokens, dim]
    return modulated_norm(s.rows(hidden), s.mlp, s.rows(normed));
  });
  linear_each(ctx, segments, [&](const Segment& s) {  // [tokens, 4 dim]
    return gelu_part(s.weights.mlp_up, s.rows(normed), s.adapters, s.rows(mlp), {});
  });
  linear_each(ctx, segments, [&](const Segment& s) {  // [tokens, dim]
    const Tensor out = s.rows(hidden);
    return part_of(s.weights.mlp_down, s.rows(mlp), s.adapters, out, gated(s.mlp.gate, out));
  });
}

int64_t FluxTransformerBlock::bytes() const {
  int64_t bytes = 0;
  for (const Stream* stream : {&text_, &image_}) {
    bytes += stream->norm1.bytes() + stream->qkv.bytes() + stream->to_out.bytes() +
             stream->mlp_up.bytes() + stream->mlp_down.bytes();
  }
  return bytes;
}

/// The rows of one sequence: all of them, and those that are updated.
struct FluxSingleTransformerBlock::Segment {
  size_t sequence;
  int64_t begin, updated, end;
  Modulated modulated;
  Adapters adapters;

  Tensor rows(const Tensor& all) const { return all.slice(0, begin, end); }
  Activations rows(const Activations& all) const { return all.rows(begin, end); }
  Tensor updated_rows(const Tensor& all) const { return all.slice(0, updated, end); }
  Activations updated_rows(const Activations& all) const { return all.rows(updated, end); }
};

FluxSingleTransformerBlock::FluxSingleTransformerBlock(const Loader& load,
                                                       const FluxTransformerConfig& config,
                                                       size_t modulation)
    : config_(config),
      norm_(load / "norm" / "linear", config.inner_dim(), 3, modulation),
      qkv_(load / "attn", config, {"to_q", "to_k", "to_v"}, {"norm_q", "norm_k"}),
      proj_mlp_(
          large_linear(load / "proj_mlp", config.inner_dim(), kMlpRatio * config.inner_dim())),
      proj_out_(large_linear(load / "proj_out", (1 + kMlpRatio) * config.inner_dim(),
                             config.inner_dim())),
      attention_options_(attention_options(load, {&qkv_})) {}

std::vector<FluxSingleTransformerBlock::Segment> FluxSingleTransformerBlock::make_segments(
    Context& ctx, const JointBatch& batch, Update update) const {
  const std::vector<ConstTensor> modulations = make_modulations(ctx, norm_, batch);
  std::vector<Segment> segments;
  // Each sequence is a segment, although all have the same weights: the way in which a segment is
  // computed depends on its rows, and must not depend on other sequences.
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const JointSequence& sequence = batch.sequences[i];
    segments.push_back({i, sequence.begin, update == Update::kAll ? sequence.begin : sequence.image,
                        sequence.end, Modulated::of(modulations[i], 0),
                        sequence.conditioning.adapters});
  }
  return segments;
}

void FluxSingleTransformerBlock::forward(Context& ctx, const JointBatch& batch, size_t block,
                                         Update update) const {
  const Workspace::Scope scope(ctx.workspace());
  const Tensor& hidden = batch.hidden;  // [tokens, dim]
  const DType dtype = hidden.dtype();
  const int64_t tokens = hidden.size(0);
  const int64_t dim = config_.inner_dim();
  const int64_t heads = config_.num_attention_heads;
  const bool e4m3 = takes_e4m3();
  const auto normed = Activations::allocate(ctx, {tokens, dim}, dtype, e4m3);
  const bool encodes = encodes_heads(ctx, config_, qkv_.linear, attention_options_);
  const auto qkv = Heads::allocate(ctx, tokens, dim, dtype, encodes);
  const auto joined = Activations::allocate(ctx, {tokens, (1 + kMlpRatio) * dim}, dtype, e4m3);
  const Activations attended = joined.columns(0, dim);
  const Activations mlp = joined.columns(dim, (1 + kMlpRatio) * dim);
  const std::vector<Segment> segments = make_segments(ctx, batch, update);

  // hidden += gate * proj_out(attention(norm(hidden)) | mlp(norm(hidden)))
  norm_each(ctx, segments, [&](const Segment& s) {  // [tokens, dim]
    return modulated_norm(s.rows(hidden), s.modulated, s.rows(normed));
  });
  linear_each(ctx, segments, [&](const Segment& s) {  // [tokens, q | k | v of heads x head_dim]
    const RopeTable rope = rows_of(batch.rope, s.begin, s.end);
    const Epilogue epilogue = qkv_.epilogue(heads, rope, batch.value_scale(block, s.sequence));
    return qkv_part(qkv_, s.rows(normed), s.adapters, epilogue, attention_options_,
                    qkv.rows(s.begin, s.end));
  });
  // The scales of the joined rows, which come with the MLP, also suit means of the values.
  linear_each(ctx, segments, [&](const Segment& s) {  // [updated tokens, 4 dim], the right columns
    return gelu_part(proj_mlp_, s.updated_rows(normed), s.adapters, s.updated_rows(mlp),
                     batch.value_scale(block, s.sequence));
  });
  std::vector<AttentionPart> attentions;  // [updated tokens, dim], the left columns of joined
  for (const Segment& s : segments) {
    const Activations out = s.updated_rows(attended);
    attentions.push_back(joint_attention(config_, qkv.rows(s.begin, s.end),
                                         batch.value_scale(block, s.sequence), out.values,
                                         out.scales.scales));
  }
  attention(ctx, attentions, attention_options_);
  linear_each(ctx, segments, [&](const Segment& s) {  // [updated tokens, dim]
    const Tensor out = s.updated_rows(hidden);
    return part_of(proj_out_, s.updated_rows(joined), s.adapters, out,
                   gated(s.modulated.gate, out));
  });
}

int64_t FluxSingleTransformerBlock::bytes() const {
  return norm_.bytes() + qkv_.bytes() + proj_mlp_.bytes() + proj_out_.bytes();
}

}  // namespace flux
