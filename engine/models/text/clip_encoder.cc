#include "models/text/clip_encoder.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "support/error.h"

namespace flux {
namespace {

/// The position that CLIPTextModel pools: the first end token, or, for configs that still carry the
/// wrong eos_token_id of old conversions, at the highest id (which is the end token).
size_t pooled_position(std::span<const int32_t> ids, int64_t eos_token_id) {
  constexpr int64_t kLegacyEos = 2;
  const auto found = eos_token_id == kLegacyEos ? std::max_element(ids.begin(), ids.end())
                                                : std::find(ids.begin(), ids.end(), eos_token_id);
  return found == ids.end() ? 0 : static_cast<size_t>(found - ids.begin());
}

}  // namespace

ClipEncoder::ClipEncoder(const Loader& load, const ClipConfig& config)
    : config_(config), dtype_(load.dtype()) {
  const bool prefixed = load.weights().contains("text_model.embeddings.token_embedding.weight");
  const Loader model = prefixed ? load / "text_model" : load;
  const int64_t size = config.hidden_size;
  const Loader embeddings = model / "embeddings";
  token_embedding_ = embeddings.table("token_embedding.weight", {config.vocab_size, size});
  position_embedding_ =
      embeddings.table("position_embedding.weight", {config.max_position_embeddings, size});
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const Loader from = model / "encoder" / "layers" / i;
    Layer layer;
    layer.layer_norm1 = LayerNorm(from / "layer_norm1", size, config.layer_norm_eps);
    layer.qkv = Linear(from / "self_attn", {"q_proj", "k_proj", "v_proj"}, size, size);
    layer.out_proj = Linear(from / "self_attn" / "out_proj", size, size);
    layer.layer_norm2 = LayerNorm(from / "layer_norm2", size, config.layer_norm_eps);
    layer.fc1 = Linear(from / "mlp" / "fc1", size, config.intermediate_size);
    layer.fc2 = Linear(from / "mlp" / "fc2", config.intermediate_size, size);
    weight_bytes_ +=
        layer.qkv.bytes() + layer.out_proj.bytes() + layer.fc1.bytes() + layer.fc2.bytes();
    layers_.push_back(std::move(layer));
  }
  final_layer_norm_ = LayerNorm(model / "final_layer_norm", size, config.layer_norm_eps);
  weight_bytes_ += token_embedding_.bytes() + position_embedding_.bytes();
  load.weights().warn_of_unused(
      {"text_model.embeddings.position_ids", "embeddings.position_ids", "text_projection"});
  places_ = load.places();
}

void ClipEncoder::forward(Context& ctx, std::span<const int32_t> ids, const Tensor& out,
                          Adapters adapters) const {
  const Context::Range range(ctx, "clip_encoder");
  check(!ids.empty() && std::ssize(ids) <= config_.max_position_embeddings, ErrorCode::kInternal,
        "CLIP: {} tokens, the model has {} positions", ids.size(), config_.max_position_embeddings);
  // Attention is causal: what follows the pooled position does not change it.
  const size_t pooled = pooled_position(ids, config_.eos_token_id);
  const auto tokens = static_cast<int64_t>(pooled) + 1;
  const Workspace::Scope scope(ctx.workspace());
  const Shape shape{tokens, config_.hidden_size};
  const Tensor hidden = ctx.workspace().allocate(shape, dtype_);    // [tokens, hidden]
  const Tensor position = ctx.workspace().allocate(shape, dtype_);  // [tokens, hidden]
  std::vector<int32_t> positions(static_cast<size_t>(tokens));
  std::iota(positions.begin(), positions.end(), 0);
  embedding(ctx, token_embedding_, ids.first(positions.size()), hidden);
  embedding(ctx, position_embedding_, positions, position);
  add(ctx, hidden, position, hidden);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Context::Range block(ctx, "encoder.layers", static_cast<int64_t>(i));
    ctx.poll_cancel();
    run_layer(ctx, layers_[i], hidden, adapters);
    if (ctx.is_traced()) ctx.trace(fmt::format("encoder.layers.{}", i), hidden);
  }
  const Tensor pooled_state = result_for(ctx, out);
  final_layer_norm_(ctx, hidden.slice(0, tokens - 1, tokens),
                    pooled_state.reshape({1, config_.hidden_size}));
  copy(ctx, pooled_state, out);
}

void ClipEncoder::run_layer(Context& ctx, const Layer& layer, const Tensor& hidden,
                            Adapters adapters) const {
  const Workspace::Scope scope(ctx.workspace());
  Workspace& workspace = ctx.workspace();
  const int64_t tokens = hidden.size(0);
  const int64_t size = config_.hidden_size;
  const int64_t heads = config_.num_attention_heads;
  const Tensor normed = workspace.allocate({tokens, size}, dtype_);
  const Tensor qkv = workspace.allocate({tokens, 3 * size}, dtype_);
  const Tensor mlp = workspace.allocate({tokens, config_.intermediate_size}, dtype_);

  layer.layer_norm1(ctx, hidden, normed);
  layer.qkv(ctx, normed, qkv, {}, adapters);                       // [tokens, q | k | v]
  const Tensor split = qkv.split_last(3 * heads, size / heads);    // [tokens, 3 heads, d]
  const Tensor attended = normed.split_last(heads, size / heads);  // [tokens, heads, d]
  AttentionOptions options;
  options.scale = 1.0f / std::sqrt(static_cast<float>(size / heads));
  options.causal = true;
  attention(ctx, split.slice(1, 0, heads), split.slice(1, heads, 2 * heads),
            split.slice(1, 2 * heads, 3 * heads), options, attended);
  layer.out_proj(ctx, normed, hidden,
                 {.activation = Activation::kNone, .gate = {}, .residual = hidden}, adapters);

  layer.layer_norm2(ctx, hidden, normed);
  layer.fc1(ctx, normed, mlp, {.activation = config_.hidden_act, .gate = {}, .residual = {}},
            adapters);
  layer.fc2(ctx, mlp, hidden, {.activation = Activation::kNone, .gate = {}, .residual = hidden},
            adapters);
}

}  // namespace flux
