#include "models/text/names.h"

#include <string>

#include "support/error.h"
#include "tensor/format.h"

namespace flux {
namespace {

constexpr NameRow kLlamaT5Names[] = {
    {"shared.weight", "token_embd.weight"},
    {"encoder.block.#.layer.0.SelfAttention.q.weight", "enc.blk.#.attn_q.weight"},
    {"encoder.block.#.layer.0.SelfAttention.k.weight", "enc.blk.#.attn_k.weight"},
    {"encoder.block.#.layer.0.SelfAttention.v.weight", "enc.blk.#.attn_v.weight"},
    {"encoder.block.#.layer.0.SelfAttention.o.weight", "enc.blk.#.attn_o.weight"},
    {"encoder.block.#.layer.0.SelfAttention.relative_attention_bias.weight",
     "enc.blk.#.attn_rel_b.weight"},
    {"encoder.block.#.layer.0.layer_norm.weight", "enc.blk.#.attn_norm.weight"},
    {"encoder.block.#.layer.1.DenseReluDense.wi_0.weight", "enc.blk.#.ffn_gate.weight"},
    {"encoder.block.#.layer.1.DenseReluDense.wi_1.weight", "enc.blk.#.ffn_up.weight"},
    {"encoder.block.#.layer.1.DenseReluDense.wo.weight", "enc.blk.#.ffn_down.weight"},
    {"encoder.block.#.layer.1.layer_norm.weight", "enc.blk.#.ffn_norm.weight"},
    {"encoder.final_layer_norm.weight", "enc.output_norm.weight"},
};

constexpr NameRow kLlamaClipNames[] = {
    {"text_model.embeddings.token_embedding.weight", "t.token_embd.weight"},
    {"text_model.embeddings.position_embedding.weight", "t.position_embd.weight"},
    {"text_model.encoder.layers.#.self_attn.q_proj.*", "t.blk.#.attn_q.*"},
    {"text_model.encoder.layers.#.self_attn.k_proj.*", "t.blk.#.attn_k.*"},
    {"text_model.encoder.layers.#.self_attn.v_proj.*", "t.blk.#.attn_v.*"},
    {"text_model.encoder.layers.#.self_attn.out_proj.*", "t.blk.#.attn_out.*"},
    {"text_model.encoder.layers.#.layer_norm1.*", "t.blk.#.ln1.*"},
    {"text_model.encoder.layers.#.layer_norm2.*", "t.blk.#.ln2.*"},
    // The two are called the other way round there.
    {"text_model.encoder.layers.#.mlp.fc1.*", "t.blk.#.ffn_down.*"},
    {"text_model.encoder.layers.#.mlp.fc2.*", "t.blk.#.ffn_up.*"},
    {"text_model.final_layer_norm.*", "t.post_ln.*"},
};

}  // namespace

std::span<const NameRow> llama_t5_names() { return kLlamaT5Names; }
std::span<const NameRow> llama_clip_names() { return kLlamaClipNames; }

nlohmann::json infer_clip_config(const TensorStore& store) {
  constexpr int64_t kHeadSize = 64;
  const std::string model =
      store.find("text_model.embeddings.token_embedding.weight") != nullptr ? "text_model." : "";
  const Shape tokens = shape_of(store, model + "embeddings.token_embedding.weight", 2);
  const Shape positions = shape_of(store, model + "embeddings.position_embedding.weight", 2);
  const Shape mlp = shape_of(store, model + "encoder.layers.0.mlp.fc1.weight", 2);
  check(tokens[1] % kHeadSize == 0, ErrorCode::kInvalidArgument,
        "{}: the text encoder is {} wide, a multiple of {} is expected; give a directory with its "
        "config.json",
        store.file_of(model + "embeddings.token_embedding.weight"), tokens[1], kHeadSize);
  return {{"architectures", {"CLIPTextModel"}},
          {"vocab_size", tokens[0]},
          {"hidden_size", tokens[1]},
          {"intermediate_size", mlp[0]},
          {"num_hidden_layers", count_numbered(store, model + "encoder.layers.#.")},
          {"num_attention_heads", tokens[1] / kHeadSize},
          {"max_position_embeddings", positions[0]},
          {"hidden_act", "quick_gelu"},
          {"layer_norm_eps", 1e-5},
          {"eos_token_id", 2}};  // as in CLIP-L's own: the highest id is pooled
}

nlohmann::json infer_t5_config(const TensorStore& store) {
  const std::string block = "encoder.block.0.layer.";
  const bool shared = store.find("shared.weight") != nullptr;
  const Shape tokens = shape_of(store, shared ? "shared.weight" : "encoder.embed_tokens.weight", 2);
  const Shape query = shape_of(store, block + "0.SelfAttention.q.weight", 2);
  const Shape bias = shape_of(store, block + "0.SelfAttention.relative_attention_bias.weight", 2);
  const bool gated = store.find(block + "1.DenseReluDense.wi_0.weight") != nullptr;
  const Shape mlp = shape_of(
      store, block + (gated ? "1.DenseReluDense.wi_0.weight" : "1.DenseReluDense.wi.weight"), 2);
  check(bias[1] > 0 && query[0] % bias[1] == 0, ErrorCode::kInvalidArgument,
        "{}: the queries of the text encoder are {} wide, which {} heads do not divide",
        store.file_of(block + "0.SelfAttention.q.weight"), query[0], bias[1]);
  return {{"architectures", {"T5EncoderModel"}},
          {"vocab_size", tokens[0]},
          {"d_model", tokens[1]},
          {"d_kv", query[0] / bias[1]},
          {"d_ff", mlp[0]},
          {"num_layers", count_numbered(store, "encoder.block.#.")},
          {"num_heads", bias[1]},
          {"relative_attention_num_buckets", bias[0]},
          {"relative_attention_max_distance", 128},
          {"layer_norm_epsilon", 1e-6},
          {"feed_forward_proj", gated ? "gated-gelu" : "relu"}};
}

}  // namespace flux
