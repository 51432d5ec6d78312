#include "models/dit_transformer.h"

#include <algorithm>

#include "layers/rope.h"
#include "ops/kernels.h"
#include "support/error.h"
#include "support/log.h"

namespace flux {
namespace {

/// A millisecond of a small picture on a fast GPU, which is what an answer takes to arrive, and a
/// small part of a step.
constexpr size_t kNearlyDoneBlocks = 3;

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
    const Tensor made = new_tensor(ctx, {std::ssize(input.timesteps), config_.inner_dim()}, dtype_);
    for (int64_t i = 0; i < made.size(0); ++i) {
      embed_conditioning(ctx, input, input.timesteps[static_cast<size_t>(i)],
                         made.slice(0, i, i + 1));
    }
    rows = made;  // only when it is whole: memory may end half-way, and the step be tried again
  }
  return {rows, found - input.timesteps.begin(), &input.kept->modulations};
}

JointBatch DitTransformer::embed(Context& ctx, std::span<const TransformerInput> rows) const {
  JointBatch batch;
  std::vector<Tensor> ids;
  int64_t tokens = 0;
  for (const TransformerInput& row : rows) {
    check(row.guidance.has_value() == config_.guidance_embeds, ErrorCode::kInvalidArgument,
          "guidance is {}, but the model has {}guidance embeddings",
          row.guidance ? "given" : "missing", config_.guidance_embeds ? "" : "no ");
    const int64_t image = tokens + row.encoder_hidden_states.size(0);
    const int64_t end = image + row.hidden_states.size(0);
    batch.sequences.push_back({tokens, image, end, make_conditioning(ctx, row)});
    ids.push_back(row.txt_ids);
    ids.push_back(row.img_ids);
    tokens = end;
  }
  batch.hidden = ctx.workspace().allocate({tokens, config_.inner_dim()}, dtype_);
  batch.rope = make_rope_table(ctx, ids, config_.axes_dims_rope);
  for (size_t i = 0; i < rows.size(); ++i) {
    const JointSequence& sequence = batch.sequences[i];
    const Tensor text = sequence.text_rows(batch.hidden);
    const Tensor image = sequence.image_rows(batch.hidden);
    context_embedder_(ctx, to_workspace(ctx, rows[i].encoder_hidden_states), text);
    x_embedder_(ctx, to_workspace(ctx, rows[i].hidden_states), image);
    ctx.trace("context_embedder", text);
    ctx.trace("x_embedder", image);
  }
  return batch;
}

void DitTransformer::predict(Context& ctx, const JointBatch& batch,
                             std::span<const TransformerInput> rows) const {
  for (size_t i = 0; i < rows.size(); ++i) {
    const Workspace::Scope scope(ctx.workspace());
    const Conditioning* const conditioning = &batch.sequences[i].conditioning;
    const Tensor modulation = norm_out_(ctx, {&conditioning, 1})[0];
    const Tensor image = batch.sequences[i].image_rows(batch.hidden);
    LayerNormParams params;
    params.scale = modulation[0];
    params.shift = modulation[1];
    layer_norm(ctx, image, params, image);
    ctx.trace("norm_out", image);
    const Tensor noise_pred = result_for(ctx, rows[i].noise_pred);
    proj_out_(ctx, image, noise_pred);
    copy(ctx, noise_pred, rows[i].noise_pred);
  }
}

void DitTransformer::forward_together(Context& ctx, std::span<const TransformerInput> rows,
                                      std::shared_ptr<const Fence>* nearly_done) const {
  const Workspace::Scope scope(ctx.workspace());
  const JointBatch batch = embed(ctx, rows);
  const auto trace = [&](const char* blocks, size_t index, bool text) {
    for (const JointSequence& sequence : batch.sequences) {
      if (text) ctx.trace(fmt::format("{}.{}.0", blocks, index), sequence.text_rows(batch.hidden));
      ctx.trace(fmt::format("{}.{}.1", blocks, index), sequence.image_rows(batch.hidden));
    }
  };
  for (size_t i = 0; i < transformer_blocks_.size(); ++i) {
    ctx.poll_cancel();
    transformer_blocks_[i].forward(ctx, batch);
    trace("transformer_blocks", i, true);
  }
  const size_t blocks = single_transformer_blocks_.size();
  for (size_t i = 0; i < blocks; ++i) {
    ctx.poll_cancel();
    if (nearly_done != nullptr && i == blocks - std::min(blocks, kNearlyDoneBlocks)) {
      *nearly_done = make_fence(ctx);
    }
    const bool last = i + 1 == blocks;
    single_transformer_blocks_[i].forward(
        ctx, batch, last ? SingleBlock::Update::kImage : SingleBlock::Update::kAll);
    trace("single_transformer_blocks", i, !last);
  }
  predict(ctx, batch, rows);
}

void DitTransformer::forward(Context& ctx, std::span<const TransformerInput> rows,
                             std::shared_ptr<const Fence>* nearly_done) const {
  const int64_t most = useful_tokens(ctx);
  size_t limit = rows.size();  // of rows at once, less where memory is short
  while (!rows.empty()) {
    const auto tokens_of = [&](size_t i) {
      return rows[i].hidden_states.size(0) + rows[i].encoder_hidden_states.size(0);
    };
    size_t count = 1;
    int64_t tokens = tokens_of(0);
    while (count < std::min(limit, rows.size()) && tokens + tokens_of(count) <= most) {
      tokens += tokens_of(count++);
    }
    try {
      forward_together(ctx, rows.first(count), nearly_done);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kUnavailable || count == 1) throw;
      limit = count / 2;
      log_warning("{} rows of a step are computed {} at a time: {}", count, limit, error.what());
      continue;
    }
    rows = rows.subspan(count);
  }
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
