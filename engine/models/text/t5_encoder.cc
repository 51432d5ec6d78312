#include "models/text/t5_encoder.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "support/error.h"

namespace flux {
namespace {

/// T5's bucket of a relative position (key - query): exact for near ones, logarithmic beyond. The
/// float32 arithmetic is transformers', T5Attention._relative_position_bucket.
int64_t relative_position_bucket(int64_t position, int64_t buckets, int64_t max_distance) {
  const int64_t half = buckets / 2;
  const int64_t sign = position > 0 ? half : 0;
  const int64_t distance = std::abs(position);
  const int64_t exact = half / 2;
  if (distance < exact) return sign + distance;
  const float ratio = static_cast<float>(distance) / static_cast<float>(exact);
  const auto period =
      static_cast<float>(std::log(static_cast<double>(max_distance) / static_cast<double>(exact)));
  const float far = std::log(ratio) / period * static_cast<float>(half - exact);
  return sign + std::min(half - 1, exact + static_cast<int64_t>(far));
}

}  // namespace

T5Encoder::T5Encoder(const Loader& load, const T5Config& config)
    : config_(config), dtype_(load.dtype()) {
  const Loader encoder = load / "encoder";
  const Shape table{config.vocab_size, config.d_model};
  // Either name is enough; where both are there, transformers uses the encoder's own.
  embedding_ = encoder.weights().contains("embed_tokens.weight")
                   ? encoder.table("embed_tokens.weight", table)
                   : load.table("shared.weight", table);
  relative_attention_bias_ =
      encoder.weights().take_f32("block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                                 {config.relative_attention_num_buckets, config.num_heads});
  weight_bytes_ = embedding_.bytes();
  for (int64_t i = 0; i < config.num_layers; ++i) {
    blocks_.push_back(load_block(encoder / "block" / i / "layer"));
    const Block& block = blocks_.back();
    weight_bytes_ += block.qkv.bytes() + block.o.bytes() + block.wi.bytes() +
                     block.wi_linear.bytes() + block.wo.bytes();
  }
  final_layer_norm_ =
      RmsNorm(encoder / "final_layer_norm", config.d_model, config.layer_norm_epsilon);
  load.weights().warn_of_unused({"shared.weight", "decoder.", "lm_head."});
  places_ = load.places();
}

T5Encoder::Block T5Encoder::load_block(const Loader& load) const {
  const int64_t inner = config_.num_heads * config_.d_kv;
  const Loader attention = load / "0" / "SelfAttention";
  const Loader dense = load / "1" / "DenseReluDense";
  const auto linear = [](const Loader& from, int64_t in, int64_t out) {
    return Linear(from, in, out, Bias::kNo, from.quantization());
  };
  Block block;
  block.attention_norm =
      RmsNorm(load / "0" / "layer_norm", config_.d_model, config_.layer_norm_epsilon);
  block.qkv = Linear(attention, {"q", "k", "v"}, config_.d_model, inner, Bias::kNo,
                     attention.quantization());
  block.o = linear(attention / "o", inner, config_.d_model);
  block.feed_forward_norm =
      RmsNorm(load / "1" / "layer_norm", config_.d_model, config_.layer_norm_epsilon);
  block.wi = linear(dense / (config_.gated ? "wi_0" : "wi"), config_.d_model, config_.d_ff);
  if (config_.gated) block.wi_linear = linear(dense / "wi_1", config_.d_model, config_.d_ff);
  block.wo = linear(dense / "wo", config_.d_ff, config_.d_model);
  return block;
}

ConstTensor T5Encoder::make_relative_bias(Context& ctx, int64_t tokens) const {
  const int64_t positions = 2 * tokens - 1;
  const Tensor bias = Tensor::allocate({config_.num_heads, positions}, DType::kF32);
  const float* learned = relative_attention_bias_.data<float>();
  for (int64_t i = 0; i < positions; ++i) {
    const int64_t bucket =
        relative_position_bucket(i - (tokens - 1), config_.relative_attention_num_buckets,
                                 config_.relative_attention_max_distance);
    for (int64_t head = 0; head < config_.num_heads; ++head) {
      bias.data<float>()[head * positions + i] = learned[bucket * config_.num_heads + head];
    }
  }
  return to_workspace(ctx, bias);
}

void T5Encoder::forward(Context& ctx, std::span<const int32_t> ids, const Tensor& out,
                        Adapters adapters) const {
  const Context::Range range(ctx, "t5_encoder");
  const int64_t tokens = std::ssize(ids);
  check(tokens > 0, ErrorCode::kInternal, "T5: no tokens");
  const Workspace::Scope scope(ctx.workspace());
  const ConstTensor relative_bias = make_relative_bias(ctx, tokens);
  const Tensor hidden = ctx.workspace().allocate({tokens, config_.d_model}, dtype_);
  embedding(ctx, embedding_, ids, hidden);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const Context::Range block(ctx, "encoder.block", static_cast<int64_t>(i));
    ctx.poll_cancel();
    run_block(ctx, blocks_[i], relative_bias, hidden, adapters);
    if (ctx.is_traced()) ctx.trace(fmt::format("encoder.block.{}.layer.1", i), hidden);
  }
  const Tensor result = result_for(ctx, out);
  final_layer_norm_(ctx, hidden, result);
  copy(ctx, result, out);
}

void T5Encoder::run_block(Context& ctx, const Block& block, const ConstTensor& relative_bias,
                          const Tensor& hidden, Adapters adapters) const {
  const Workspace::Scope scope(ctx.workspace());
  Workspace& workspace = ctx.workspace();
  const int64_t tokens = hidden.size(0);
  const int64_t heads = config_.num_heads;
  const int64_t inner = heads * config_.d_kv;
  const Tensor normed = workspace.allocate({tokens, config_.d_model}, dtype_);
  const Tensor qkv = workspace.allocate({tokens, 3 * inner}, dtype_);
  const Tensor attended = workspace.allocate({tokens, inner}, dtype_);
  const Tensor wide = workspace.allocate({tokens, config_.d_ff}, dtype_);
  const Epilogue add_hidden{.activation = Activation::kNone, .gate = {}, .residual = hidden};

  block.attention_norm(ctx, hidden, normed);
  block.qkv(ctx, normed, qkv, {}, adapters);                     // [tokens, q | k | v]
  const Tensor split = qkv.split_last(3 * heads, config_.d_kv);  // [tokens, 3 heads, d_kv]
  AttentionOptions options;                                      // T5 does not scale its scores
  options.relative_bias = relative_bias;
  attention(ctx, split.slice(1, 0, heads), split.slice(1, heads, 2 * heads),
            split.slice(1, 2 * heads, 3 * heads), options,
            attended.split_last(heads, config_.d_kv));
  block.o(ctx, attended, hidden, add_hidden, adapters);

  block.feed_forward_norm(ctx, hidden, normed);
  block.wi(ctx, normed, wide, {.activation = config_.activation, .gate = {}, .residual = {}},
           adapters);
  if (config_.gated) {
    const Tensor factor = workspace.allocate({tokens, config_.d_ff}, dtype_);
    block.wi_linear(ctx, normed, factor, {}, adapters);
    multiply(ctx, wide, factor, wide);
  }
  block.wo(ctx, wide, hidden, add_hidden, adapters);
}

}  // namespace flux
