#include "models/dit_transformer.h"

#include <algorithm>

#include "layers/rope.h"
#include "support/error.h"
#include "support/log.h"

namespace flux {
namespace {

/// The pipeline hands times in [0, 1] in its dtype; the model scales them back in that dtype, which
/// rounds visibly in bf16.
float scaled_to_thousand(float value, DType dtype) {
  return round_to(dtype, round_to(dtype, value) * 1000.0f);
}

}  // namespace

DitTransformer::DitTransformer(Context& ctx, const TransformerConfig& config,
                               const WeightFiles& files, DType dtype)
    : config_(config), dtype_(dtype) {
  const WeightScope root(files);
  const int64_t dim = config.inner_dim();
  x_embedder_ = Linear(ctx, root / "x_embedder", config.in_channels, dim, Bias::kYes, dtype);
  context_embedder_ =
      Linear(ctx, root / "context_embedder", config.joint_attention_dim, dim, Bias::kYes, dtype);
  const WeightScope embed = root / "time_text_embed";
  timestep_embedder_ =
      TwoLayerEmbedding(ctx, embed / "timestep_embedder", kTimestepChannels, dim, dtype);
  if (config.guidance_embeds) {
    guidance_embedder_ =
        TwoLayerEmbedding(ctx, embed / "guidance_embedder", kTimestepChannels, dim, dtype);
  }
  text_embedder_ =
      TwoLayerEmbedding(ctx, embed / "text_embedder", config.pooled_projection_dim, dim, dtype);
  for (int64_t i = 0; i < config.num_layers; ++i) {
    transformer_blocks_.emplace_back(ctx, root / "transformer_blocks" / i, config, dtype);
  }
  for (int64_t i = 0; i < config.num_single_layers; ++i) {
    single_transformer_blocks_.emplace_back(ctx, root / "single_transformer_blocks" / i, config,
                                            dtype);
  }
  norm_out_ = Modulation(ctx, root / "norm_out" / "linear", dim, 2, dtype);
  proj_out_ = Linear(ctx, root / "proj_out", dim, config.out_channels, Bias::kYes, dtype);
  for (const std::string& name : root.unused({})) {
    log_warning("{}: tensor '{}' is not used", files.file_of(name).string(), name);
  }
}

void DitTransformer::embed_conditioning(Context& ctx, const TransformerInput& input, float timestep,
                                        const Tensor& out) const {
  const Workspace::Scope scope(ctx.workspace());
  const float time = scaled_to_thousand(timestep, dtype_);
  timestep_embedder_(ctx, embed_timestep(ctx, time, dtype_), out);
  if (config_.guidance_embeds) {
    const float guidance = scaled_to_thousand(*input.guidance, dtype_);
    guidance_embedder_(ctx, embed_timestep(ctx, guidance, dtype_), out, out);
  }
  const Tensor pooled = to_workspace(ctx, input.pooled_projections);
  text_embedder_(ctx, pooled.reshape({1, config_.pooled_projection_dim}), out, out);
  ctx.trace("time_text_embed", out);
  activate(ctx, out, Activation::kSilu, out);
}

Conditioning DitTransformer::make_conditioning(Context& ctx, const TransformerInput& input) const {
  const auto found = std::find(input.timesteps.begin(), input.timesteps.end(), input.timestep);
  if (input.kept == nullptr || found == input.timesteps.end()) {
    const Tensor row = ctx.workspace().allocate({1, config_.inner_dim()}, dtype_);
    embed_conditioning(ctx, input, input.timestep, row);
    return {row, 0, nullptr};
  }
  Tensor& rows = input.kept->rows;
  if (!rows.defined()) {
    rows = new_tensor(ctx, {std::ssize(input.timesteps), config_.inner_dim()}, dtype_);
    for (int64_t i = 0; i < rows.size(0); ++i) {
      embed_conditioning(ctx, input, input.timesteps[static_cast<size_t>(i)],
                         rows.slice(0, i, i + 1));
    }
  }
  return {rows, found - input.timesteps.begin(), &input.kept->modulations};
}

void DitTransformer::forward(Context& ctx, const TransformerInput& input) const {
  check(input.guidance.has_value() == config_.guidance_embeds, ErrorCode::kInvalidArgument,
        "guidance is {}, but the model has {}guidance embeddings",
        input.guidance ? "given" : "missing", config_.guidance_embeds ? "" : "no ");
  const Workspace::Scope scope(ctx.workspace());
  const int64_t text_tokens = input.encoder_hidden_states.size(0);
  const int64_t tokens = text_tokens + input.hidden_states.size(0);
  const Tensor hidden = ctx.workspace().allocate({tokens, config_.inner_dim()}, dtype_);
  const Tensor text = hidden.slice(0, 0, text_tokens);
  const Tensor image = hidden.slice(0, text_tokens, tokens);
  const JointSequence sequence{
      hidden, text_tokens, make_conditioning(ctx, input),
      make_rope_table(ctx, {input.txt_ids, input.img_ids}, config_.axes_dims_rope)};
  context_embedder_(ctx, to_workspace(ctx, input.encoder_hidden_states), text);
  x_embedder_(ctx, to_workspace(ctx, input.hidden_states), image);
  ctx.trace("context_embedder", text);
  ctx.trace("x_embedder", image);
  for (size_t i = 0; i < transformer_blocks_.size(); ++i) {
    ctx.poll_cancel();
    transformer_blocks_[i].forward(ctx, sequence);
    ctx.trace(fmt::format("transformer_blocks.{}.0", i), text);
    ctx.trace(fmt::format("transformer_blocks.{}.1", i), image);
  }
  for (size_t i = 0; i < single_transformer_blocks_.size(); ++i) {
    ctx.poll_cancel();
    const bool last = i + 1 == single_transformer_blocks_.size();
    single_transformer_blocks_[i].forward(ctx, sequence, last ? text_tokens : 0);
    if (!last) ctx.trace(fmt::format("single_transformer_blocks.{}.0", i), text);
    ctx.trace(fmt::format("single_transformer_blocks.{}.1", i), image);
  }
  const Tensor modulation = norm_out_(ctx, sequence.conditioning);
  LayerNormParams params;
  params.scale = modulation[0];
  params.shift = modulation[1];
  layer_norm(ctx, image, params, image);
  ctx.trace("norm_out", image);
  const Tensor noise_pred = result_for(ctx, input.noise_pred);
  proj_out_(ctx, image, noise_pred);
  copy(ctx, noise_pred, input.noise_pred);
}

int64_t DitTransformer::weight_bytes() const {
  int64_t bytes = x_embedder_.bytes() + context_embedder_.bytes() + timestep_embedder_.bytes() +
                  guidance_embedder_.bytes() + text_embedder_.bytes() + norm_out_.bytes() +
                  proj_out_.bytes();
  for (const DoubleBlock& block : transformer_blocks_) bytes += block.bytes();
  for (const SingleBlock& block : single_transformer_blocks_) bytes += block.bytes();
  return bytes;
}

}  // namespace flux
