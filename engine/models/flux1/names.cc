#include "models/flux1/names.h"

#include "support/error.h"
#include "tensor/format.h"

namespace flux {
namespace {

constexpr StoredPart kQuery{.begin = 0, .end = 1, .of = 3};
constexpr StoredPart kKey{.begin = 1, .end = 2, .of = 3};
constexpr StoredPart kValue{.begin = 2, .end = 3, .of = 3};
// linear1 holds q, k, v and an MLP that is 4 times as wide.
constexpr StoredPart kQuery7{.begin = 0, .end = 1, .of = 7};
constexpr StoredPart kKey7{.begin = 1, .end = 2, .of = 7};
constexpr StoredPart kValue7{.begin = 2, .end = 3, .of = 7};
constexpr StoredPart kMlp7{.begin = 3, .end = 7, .of = 7};
// Shift and scale there, scale and shift in diffusers.
constexpr StoredPart kSwapped{.halves_swapped = true};

constexpr NameRow kBflNames[] = {
    {"x_embedder.*", "img_in.*"},
    {"context_embedder.*", "txt_in.*"},
    {"time_text_embed.timestep_embedder.linear_1.*", "time_in.in_layer.*"},
    {"time_text_embed.timestep_embedder.linear_2.*", "time_in.out_layer.*"},
    {"time_text_embed.text_embedder.linear_1.*", "vector_in.in_layer.*"},
    {"time_text_embed.text_embedder.linear_2.*", "vector_in.out_layer.*"},
    {"time_text_embed.guidance_embedder.linear_1.*", "guidance_in.in_layer.*"},
    {"time_text_embed.guidance_embedder.linear_2.*", "guidance_in.out_layer.*"},
    {"transformer_blocks.#.norm1.linear.*", "double_blocks.#.img_mod.lin.*"},
    {"transformer_blocks.#.norm1_context.linear.*", "double_blocks.#.txt_mod.lin.*"},
    {"transformer_blocks.#.attn.to_q.*", "double_blocks.#.img_attn.qkv.*", kQuery},
    {"transformer_blocks.#.attn.to_k.*", "double_blocks.#.img_attn.qkv.*", kKey},
    {"transformer_blocks.#.attn.to_v.*", "double_blocks.#.img_attn.qkv.*", kValue},
    {"transformer_blocks.#.attn.add_q_proj.*", "double_blocks.#.txt_attn.qkv.*", kQuery},
    {"transformer_blocks.#.attn.add_k_proj.*", "double_blocks.#.txt_attn.qkv.*", kKey},
    {"transformer_blocks.#.attn.add_v_proj.*", "double_blocks.#.txt_attn.qkv.*", kValue},
    {"transformer_blocks.#.attn.norm_q.weight", "double_blocks.#.img_attn.norm.query_norm.scale"},
    {"transformer_blocks.#.attn.norm_k.weight", "double_blocks.#.img_attn.norm.key_norm.scale"},
    {"transformer_blocks.#.attn.norm_added_q.weight",
     "double_blocks.#.txt_attn.norm.query_norm.scale"},
    {"transformer_blocks.#.attn.norm_added_k.weight",
     "double_blocks.#.txt_attn.norm.key_norm.scale"},
    {"transformer_blocks.#.attn.to_out.0.*", "double_blocks.#.img_attn.proj.*"},
    {"transformer_blocks.#.attn.to_add_out.*", "double_blocks.#.txt_attn.proj.*"},
    {"transformer_blocks.#.ff.net.0.proj.*", "double_blocks.#.img_mlp.0.*"},
    {"transformer_blocks.#.ff.net.2.*", "double_blocks.#.img_mlp.2.*"},
    {"transformer_blocks.#.ff_context.net.0.proj.*", "double_blocks.#.txt_mlp.0.*"},
    {"transformer_blocks.#.ff_context.net.2.*", "double_blocks.#.txt_mlp.2.*"},
    {"single_transformer_blocks.#.norm.linear.*", "single_blocks.#.modulation.lin.*"},
    {"single_transformer_blocks.#.attn.to_q.*", "single_blocks.#.linear1.*", kQuery7},
    {"single_transformer_blocks.#.attn.to_k.*", "single_blocks.#.linear1.*", kKey7},
    {"single_transformer_blocks.#.attn.to_v.*", "single_blocks.#.linear1.*", kValue7},
    {"single_transformer_blocks.#.proj_mlp.*", "single_blocks.#.linear1.*", kMlp7},
    {"single_transformer_blocks.#.proj_out.*", "single_blocks.#.linear2.*"},
    {"single_transformer_blocks.#.attn.norm_q.weight", "single_blocks.#.norm.query_norm.scale"},
    {"single_transformer_blocks.#.attn.norm_k.weight", "single_blocks.#.norm.key_norm.scale"},
    {"norm_out.linear.*", "final_layer.adaLN_modulation.1.*", kSwapped},
    {"proj_out.*", "final_layer.linear.*"},
};

}  // namespace

std::span<const NameRow> bfl_transformer_names() { return kBflNames; }

nlohmann::json infer_transformer_config(const TensorStore& store) {
  const Shape image = shape_of(store, "x_embedder.weight", 2);
  const Shape text = shape_of(store, "context_embedder.weight", 2);
  const Shape pooled = shape_of(store, "time_text_embed.text_embedder.linear_1.weight", 2);
  const int64_t width = image[0];
  const int64_t layers = count_numbered(store, "transformer_blocks.#.");
  const int64_t singles = count_numbered(store, "single_transformer_blocks.#.");
  const std::string norm = layers > 0 ? "transformer_blocks.0.attn.norm_q.weight"
                                      : "single_transformer_blocks.0.attn.norm_q.weight";
  const int64_t head = shape_of(store, norm, 1)[0];
  // FLUX.1 rotates an eighth of a head by nothing and seven sixteenths each by row and column.
  check(head > 0 && head % 16 == 0 && width % head == 0, ErrorCode::kInvalidArgument,
        "{}: tensor '{}' has {} values, and the model is {} wide: heads of a multiple of 16 that "
        "divides it are expected; give a directory with its config.json",
        store.file_of(norm), store.stored_name(norm), head, width);
  const bool guidance = store.find("time_text_embed.guidance_embedder.linear_1.weight") != nullptr;
  return {{"_class_name", "FluxTransformer2DModel"},
          {"in_channels", image[1]},
          {"out_channels", shape_of(store, "proj_out.weight", 2)[0]},
          {"num_layers", layers},
          {"num_single_layers", singles},
          {"attention_head_dim", head},
          {"num_attention_heads", width / head},
          {"joint_attention_dim", text[1]},
          {"pooled_projection_dim", pooled[1]},
          {"guidance_embeds", guidance},
          {"axes_dims_rope", {head / 8, head / 16 * 7, head / 16 * 7}}};
}

nlohmann::json scheduler_config_for(bool guidance_embeds) {
  return {{"_class_name", "FlowMatchEulerDiscreteScheduler"},
          {"num_train_timesteps", 1000},
          {"shift", guidance_embeds ? 3.0 : 1.0},
          {"use_dynamic_shifting", guidance_embeds},
          {"base_shift", 0.5},
          {"max_shift", 1.15},
          {"base_image_seq_len", 256},
          {"max_image_seq_len", 4096}};
}

}  // namespace flux
