#include "adapters/modules.h"

#include <algorithm>
#include <iterator>

namespace flux {
namespace {

constexpr Dimension kHidden{Width::kHidden};
constexpr Dimension kHidden2{Width::kHidden, 2};
constexpr Dimension kHidden3{Width::kHidden, 3};
constexpr Dimension kHidden4{Width::kHidden, 4};
constexpr Dimension kHidden5{Width::kHidden, 5};
constexpr Dimension kHidden6{Width::kHidden, 6};
constexpr Dimension kHead{Width::kHead};
constexpr Dimension kInput{Width::kInput};
constexpr Dimension kOutput{Width::kOutput};
constexpr Dimension kText{Width::kText};
constexpr Dimension kPooled{Width::kPooled};
constexpr Dimension kTimestep{Width::kTimestep};
constexpr Dimension kClip{Width::kClip};
constexpr Dimension kClipMlp{Width::kClipMlp};
constexpr Dimension kT5{Width::kT5};
constexpr Dimension kT5Heads{Width::kT5Heads};
constexpr Dimension kT5Mlp{Width::kT5Mlp};
constexpr Dimension kVector{};

constexpr AdapterModel kTransformer = AdapterModel::kTransformer;
constexpr AdapterModel kClipModel = AdapterModel::kClip;
constexpr AdapterModel kT5Model = AdapterModel::kT5;

constexpr Module kModules[] = {
    {kTransformer, "x_embedder", kHidden, kInput},
    {kTransformer, "context_embedder", kHidden, kText},
    {kTransformer, "time_text_embed.timestep_embedder.linear_1", kHidden, kTimestep},
    {kTransformer, "time_text_embed.timestep_embedder.linear_2", kHidden, kHidden},
    {kTransformer, "time_text_embed.guidance_embedder.linear_1", kHidden, kTimestep},
    {kTransformer, "time_text_embed.guidance_embedder.linear_2", kHidden, kHidden},
    {kTransformer, "time_text_embed.text_embedder.linear_1", kHidden, kPooled},
    {kTransformer, "time_text_embed.text_embedder.linear_2", kHidden, kHidden},
    {kTransformer, "transformer_blocks.#.norm1.linear", kHidden6, kHidden},
    {kTransformer, "transformer_blocks.#.norm1_context.linear", kHidden6, kHidden},
    {kTransformer, "transformer_blocks.#.attn.to_q", kHidden, kHidden},
    {kTransformer, "transformer_blocks.#.attn.to_k", kHidden, kHidden},
    {kTransformer, "transformer_blocks.#.attn.to_v", kHidden, kHidden},
    {kTransformer, "transformer_blocks.#.attn.add_q_proj", kHidden, kHidden},
    {kTransformer, "transformer_blocks.#.attn.add_k_proj", kHidden, kHidden},
    {kTransformer, "transformer_blocks.#.attn.add_v_proj", kHidden, kHidden},
    {kTransformer, "transformer_blocks.#.attn.norm_q", kHead, kVector},
    {kTransformer, "transformer_blocks.#.attn.norm_k", kHead, kVector},
    {kTransformer, "transformer_blocks.#.attn.norm_added_q", kHead, kVector},
    {kTransformer, "transformer_blocks.#.attn.norm_added_k", kHead, kVector},
    {kTransformer, "transformer_blocks.#.attn.to_out.0", kHidden, kHidden},
    {kTransformer, "transformer_blocks.#.attn.to_add_out", kHidden, kHidden},
    {kTransformer, "transformer_blocks.#.ff.net.0.proj", kHidden4, kHidden},
    {kTransformer, "transformer_blocks.#.ff.net.2", kHidden, kHidden4},
    {kTransformer, "transformer_blocks.#.ff_context.net.0.proj", kHidden4, kHidden},
    {kTransformer, "transformer_blocks.#.ff_context.net.2", kHidden, kHidden4},
    {kTransformer, "single_transformer_blocks.#.norm.linear", kHidden3, kHidden},
    {kTransformer, "single_transformer_blocks.#.attn.to_q", kHidden, kHidden},
    {kTransformer, "single_transformer_blocks.#.attn.to_k", kHidden, kHidden},
    {kTransformer, "single_transformer_blocks.#.attn.to_v", kHidden, kHidden},
    {kTransformer, "single_transformer_blocks.#.attn.norm_q", kHead, kVector},
    {kTransformer, "single_transformer_blocks.#.attn.norm_k", kHead, kVector},
    {kTransformer, "single_transformer_blocks.#.proj_mlp", kHidden4, kHidden},
    {kTransformer, "single_transformer_blocks.#.proj_out", kHidden, kHidden5},
    {kTransformer, "norm_out.linear", kHidden2, kHidden},
    {kTransformer, "proj_out", kOutput, kHidden},

    {kClipModel, "text_model.encoder.layers.#.layer_norm1", kClip, kVector},
    {kClipModel, "text_model.encoder.layers.#.self_attn.q_proj", kClip, kClip},
    {kClipModel, "text_model.encoder.layers.#.self_attn.k_proj", kClip, kClip},
    {kClipModel, "text_model.encoder.layers.#.self_attn.v_proj", kClip, kClip},
    {kClipModel, "text_model.encoder.layers.#.self_attn.out_proj", kClip, kClip},
    {kClipModel, "text_model.encoder.layers.#.layer_norm2", kClip, kVector},
    {kClipModel, "text_model.encoder.layers.#.mlp.fc1", kClipMlp, kClip},
    {kClipModel, "text_model.encoder.layers.#.mlp.fc2", kClip, kClipMlp},
    {kClipModel, "text_model.final_layer_norm", kClip, kVector},

    {kT5Model, "encoder.block.#.layer.0.layer_norm", kT5, kVector},
    {kT5Model, "encoder.block.#.layer.0.SelfAttention.q", kT5Heads, kT5},
    {kT5Model, "encoder.block.#.layer.0.SelfAttention.k", kT5Heads, kT5},
    {kT5Model, "encoder.block.#.layer.0.SelfAttention.v", kT5Heads, kT5},
    {kT5Model, "encoder.block.#.layer.0.SelfAttention.o", kT5, kT5Heads},
    {kT5Model, "encoder.block.#.layer.1.layer_norm", kT5, kVector},
    {kT5Model, "encoder.block.#.layer.1.DenseReluDense.wi", kT5Mlp, kT5},
    {kT5Model, "encoder.block.#.layer.1.DenseReluDense.wi_0", kT5Mlp, kT5},
    {kT5Model, "encoder.block.#.layer.1.DenseReluDense.wi_1", kT5Mlp, kT5},
    {kT5Model, "encoder.block.#.layer.1.DenseReluDense.wo", kT5, kT5Mlp},
    {kT5Model, "encoder.final_layer_norm", kT5, kVector},
};

}  // namespace

std::string_view name_of(AdapterModel model) {
  constexpr std::string_view kNames[] = {"transformer", "clip", "t5"};
  return kNames[static_cast<size_t>(model)];
}

std::string_view name_of(Width width) {
  constexpr std::string_view kNames[] = {"none",           "hidden size",       "head size",
                                         "input channels", "output channels",   "text width",
                                         "pooled width",   "timestep channels", "CLIP hidden size",
                                         "CLIP MLP size",  "T5 hidden size",    "T5 heads' size",
                                         "T5 MLP size"};
  static_assert(std::size(kNames) == kWidths);
  return kNames[static_cast<size_t>(width)];
}

std::span<const Module> adapter_modules() { return kModules; }

const Module* find_module(AdapterModel model, std::string_view name) {
  const auto* found =
      std::find_if(std::begin(kModules), std::end(kModules),
                   [&](const Module& known) { return known.model == model && known.name == name; });
  return found == std::end(kModules) ? nullptr : found;
}

}  // namespace flux
