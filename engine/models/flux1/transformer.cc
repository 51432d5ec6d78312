#include "models/flux1/transformer.h"

#include <algorithm>

#include "layers/rope.h"
#include "ops/kernels.h"
#include "support/error.h"
#include "support/log.h"
#include "tensor/format.h"

namespace flux {
namespace {

/// The blocks left when a step is nearly done: a millisecond for a small image on a fast GPU, which
/// is how long an answer takes to arrive, and a small part of a step.
constexpr size_t kNearlyDoneBlocks = 3;

/// The pipeline passes times in [0, 1] in its dtype; the model scales them back in that dtype,
/// which rounds visibly in bf16.
float scaled_to_thousand(float value, DType dtype) {
  return round_to(dtype, round_to(dtype, value) * 1000.0f);
}

/// Says so where the device has attention of fp8, but not for the model's heads.
void warn_of_attention(const Loader& load, const FluxTransformerConfig& config) {
  if (load.attention() != AttentionPrecision::kFp8) return;
  const Kernels& kernels = kernels_of(load.context());
  if (kernels.support(Quantization::kFp8, load.dtype()) != Kernels::Support::kYes ||
      kernels.attends_in_e4m3(load.dtype(), config.attention_head_dim)) {
    return;
  }
  log_warning("attention fp8: attention is of {}: heads of {} are not a multiple of 8 up to 128",
              load.dtype(), config.attention_head_dim);
}

}  // namespace

int64_t TransformerInput::tokens() const {
  int64_t tokens = encoder_hidden_states.size(0);
  for (const ImageTokens& image : images) tokens += image.hidden_states.size(0);
  return tokens;
}

FluxTransformer::FluxTransformer(const Loader& load, const FluxTransformerConfig& config)
    : config_(config), dtype_(load.dtype()) {
  const int64_t dim = config.inner_dim();
  warn_of_attention(load, config);
  x_embedder_ = Linear(load / "x_embedder", config.in_channels, dim);
  context_embedder_ = Linear(load / "context_embedder", config.joint_attention_dim, dim);
  const Loader embed = load / "time_text_embed";
  timestep_embedder_ = TwoLayerEmbedding(embed / "timestep_embedder", kTimestepChannels, dim);
  if (config.guidance_embeds) {
    guidance_embedder_ = TwoLayerEmbedding(embed / "guidance_embedder", kTimestepChannels, dim);
  }
  text_embedder_ = TwoLayerEmbedding(embed / "text_embedder", config.pooled_projection_dim, dim);
  size_t modulation = 0;
  for (int64_t i = 0; i < config.num_layers; ++i, modulation += 2) {
    transformer_blocks_.emplace_back(load / "transformer_blocks" / i, config, modulation);
  }
  for (int64_t i = 0; i < config.num_single_layers; ++i, ++modulation) {
    single_transformer_blocks_.emplace_back(load / "single_transformer_blocks" / i, config,
                                            modulation);
  }
  norm_out_ = Modulation(load / "norm_out" / "linear", dim, 2, modulation);
  proj_out_ = Linear(load / "proj_out", dim, config.out_channels);
  load.weights().warn_of_unused({});
  places_ = load.places();
}

size_t FluxTransformer::block_count() const {
  return transformer_blocks_.size() + single_transformer_blocks_.size();
}

bool FluxTransformer::takes_e4m3() const {
  return transformer_blocks_.empty() ? !single_transformer_blocks_.empty() &&
                                           single_transformer_blocks_.front().takes_e4m3()
                                     : transformer_blocks_.front().takes_e4m3();
}

size_t FluxTransformer::modulation_count() const {
  return 2 * transformer_blocks_.size() + single_transformer_blocks_.size() + 1;
}

void FluxTransformer::embed_conditioning(Context& ctx, const TransformerInput& input,
                                         float timestep, const Tensor& out) const {
  const Workspace::Scope scope(ctx.workspace());
  const float time = scaled_to_thousand(timestep, dtype_);
  timestep_embedder_(ctx, embed_timestep(ctx, time, dtype_), out, {}, input.adapters);
  if (config_.guidance_embeds) {
    const float guidance = scaled_to_thousand(*input.guidance, dtype_);
    guidance_embedder_(ctx, embed_timestep(ctx, guidance, dtype_), out, out, input.adapters);
  }
  const ConstTensor pooled = to_workspace(ctx, input.pooled_projections);
  text_embedder_(ctx, pooled.reshape({1, config_.pooled_projection_dim}), out, out, input.adapters);
  ctx.trace("time_text_embed", out);
  activate(ctx, out, Activation::kSilu, out);
}

Conditioning FluxTransformer::make_conditioning(Context& ctx, const TransformerInput& input) const {
  const StepClock& clock = input.clock;
  if (input.state == nullptr) {
    const Tensor row = ctx.workspace().allocate({1, config_.inner_dim()}, dtype_);
    embed_conditioning(ctx, input, clock.timestep(), row);
    return {row, 0, nullptr, input.adapters};
  }
  StepState& state = *input.state;
  if (!state.conditioning.defined()) {
    const Tensor rows =
        pooled_tensor(ctx, {static_cast<int64_t>(clock.steps()), config_.inner_dim()}, dtype_);
    for (int64_t i = 0; i < rows.size(0); ++i) {
      embed_conditioning(ctx, input, (*clock.timesteps)[static_cast<size_t>(i)],
                         rows.slice(0, i, i + 1));
    }
    state.modulations.resize(modulation_count());
    state.conditioning = rows;  // only when it is complete: memory may run out before
  }
  return {state.conditioning, static_cast<int64_t>(clock.step), &state.modulations, input.adapters};
}

JointBatch FluxTransformer::embed(Context& ctx, std::span<const TransformerInput> rows) const {
  JointBatch batch;
  std::vector<ConstTensor> ids;
  int64_t tokens = 0;
  for (const TransformerInput& row : rows) {
    check(row.guidance.has_value() == config_.guidance_embeds, ErrorCode::kInvalidArgument,
          "guidance is {}, but the model has {}guidance embeddings",
          row.guidance ? "given" : "missing", config_.guidance_embeds ? "" : "no ");
    const int64_t image = tokens + row.encoder_hidden_states.size(0);
    const int64_t end = tokens + row.tokens();
    batch.sequences.push_back({tokens, image, end, make_conditioning(ctx, row)});
    ids.push_back(row.txt_ids);
    for (const ImageTokens& group : row.images) ids.push_back(group.img_ids);
    tokens = end;
  }
  batch.hidden = ctx.workspace().allocate({tokens, config_.inner_dim()}, dtype_);
  batch.rope = make_rope_table(ctx, ids, config_.axes_dims_rope);
  if (takes_e4m3()) {
    const auto blocks = static_cast<int64_t>(block_count());
    const Tensor zeros = Tensor::allocate({blocks, std::ssize(rows)}, DType::kF32);
    std::fill_n(zeros.data<float>(), zeros.numel(), 0.0f);
    batch.value_scales = ctx.workspace().allocate(zeros.shape(), DType::kF32);
    copy(ctx, zeros, batch.value_scales);
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    const JointSequence& sequence = batch.sequences[i];
    const Tensor text = sequence.text_rows(batch.hidden);
    const Adapters adapters = rows[i].adapters;
    context_embedder_(ctx, to_workspace(ctx, rows[i].encoder_hidden_states), text, {}, adapters);
    ctx.trace("context_embedder", text);
    int64_t begin = sequence.image;
    for (const ImageTokens& group : rows[i].images) {
      const int64_t end = begin + group.hidden_states.size(0);
      x_embedder_(ctx, to_workspace(ctx, group.hidden_states), batch.hidden.slice(0, begin, end),
                  {}, adapters);
      begin = end;
    }
    ctx.trace("x_embedder", sequence.image_rows(batch.hidden));
  }
  return batch;
}

void FluxTransformer::predict(Context& ctx, const JointBatch& batch,
                              std::span<const TransformerInput> rows) const {
  for (size_t i = 0; i < rows.size(); ++i) {
    const Workspace::Scope scope(ctx.workspace());
    const Conditioning* const conditioning = &batch.sequences[i].conditioning;
    const ConstTensor modulation = norm_out_(ctx, {&conditioning, 1})[0];
    LayerNormParams params;
    params.scale = modulation[0];
    params.shift = modulation[1];
    int64_t begin = batch.sequences[i].image;
    for (const ImageTokens& group : rows[i].images) {
      const int64_t end = begin + group.hidden_states.size(0);
      if (group.noise_pred.defined()) {
        const Tensor image = batch.hidden.slice(0, begin, end);  // [tokens, dim]
        layer_norm(ctx, image, params, image);
        ctx.trace("norm_out", image);
        const Tensor noise_pred = result_for(ctx, group.noise_pred);
        proj_out_(ctx, image, noise_pred, {}, rows[i].adapters);  // [tokens, out_channels]
        copy(ctx, noise_pred, group.noise_pred);
      }
      begin = end;
    }
  }
}

void FluxTransformer::forward(Context& ctx, std::span<const TransformerInput> rows,
                              std::shared_ptr<const Fence>* nearly_done) const {
  const Context::Range range(ctx, "transformer");
  const Workspace::Scope scope(ctx.workspace());
  const JointBatch batch = embed(ctx, rows);
  const auto trace = [&](const char* blocks, size_t index, bool text) {
    if (!ctx.is_traced()) return;
    for (const JointSequence& sequence : batch.sequences) {
      if (text) ctx.trace(fmt::format("{}.{}.0", blocks, index), sequence.text_rows(batch.hidden));
      ctx.trace(fmt::format("{}.{}.1", blocks, index), sequence.image_rows(batch.hidden));
    }
  };
  for (size_t i = 0; i < transformer_blocks_.size(); ++i) {
    ctx.poll_cancel();
    const Context::Range block(ctx, "transformer_blocks", static_cast<int64_t>(i));
    transformer_blocks_[i].forward(ctx, batch, i);
    trace("transformer_blocks", i, true);
  }
  const size_t blocks = single_transformer_blocks_.size();
  for (size_t i = 0; i < blocks; ++i) {
    ctx.poll_cancel();
    if (nearly_done != nullptr && i == blocks - std::min(blocks, kNearlyDoneBlocks)) {
      *nearly_done = make_fence(ctx);
    }
    const bool last = i + 1 == blocks;
    const Context::Range block(ctx, "single_transformer_blocks", static_cast<int64_t>(i));
    single_transformer_blocks_[i].forward(ctx, batch, transformer_blocks_.size() + i,
                                          last ? FluxSingleTransformerBlock::Update::kImage
                                               : FluxSingleTransformerBlock::Update::kAll);
    trace("single_transformer_blocks", i, !last);
  }
  predict(ctx, batch, rows);
}

int64_t FluxTransformer::weight_bytes() const {
  int64_t bytes = x_embedder_.bytes() + context_embedder_.bytes() + timestep_embedder_.bytes() +
                  guidance_embedder_.bytes() + text_embedder_.bytes() + norm_out_.bytes() +
                  proj_out_.bytes();
  for (const FluxTransformerBlock& block : transformer_blocks_) bytes += block.bytes();
  for (const FluxSingleTransformerBlock& block : single_transformer_blocks_) bytes += block.bytes();
  return bytes;
}

}  // namespace flux
