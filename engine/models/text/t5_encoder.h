#pragma once

#include <span>
#include <vector>

#include "layers/linear.h"
#include "layers/norms.h"
#include "models/text/config.h"

namespace flux {

/// transformers' T5EncoderModel as FLUX uses it: no attention mask, so that padding is attended.
/// Source: Raffel et al., Exploring the Limits of Transfer Learning (2020). Immutable after
/// loading; forwards may run at once, each with its own Context.
class T5Encoder {
 public:
  /// Binds every weight of the component. Throws naming file and tensor.
  T5Encoder(const Loader& load, const T5Config& config);

  /// ids: token ids, padded as the tokenizer pads them. out: [ids.size(), d_model], T.
  void forward(Context& ctx, std::span<const int32_t> ids, const Tensor& out,
               Adapters adapters = {}) const;

  /// Bytes held for the weights.
  int64_t weight_bytes() const { return weight_bytes_; }
  /// Its linears, in the order of AdapterWeights::by_linear.
  std::span<const LinearPlace> places() const { return places_; }

 private:
  struct Block {
    RmsNorm attention_norm;
    Linear qkv;
    Linear o;
    RmsNorm feed_forward_norm;
    Linear wi;         // plain: activation(wi x); gated: activation(wi_0 x), then * wi_1 x
    Linear wi_linear;  // gated only
    Linear wo;
  };
  Block load_block(const Loader& load) const;
  void run_block(Context& ctx, const Block& block, const ConstTensor& relative_bias,
                 const Tensor& hidden, Adapters adapters) const;
  /// [num_heads, 2 tokens - 1], f32, in the workspace: the bias by key - query position.
  ConstTensor make_relative_bias(Context& ctx, int64_t tokens) const;

  T5Config config_;
  DType dtype_;
  StoredTensor embedding_;               // [vocab_size, d_model]
  ConstTensor relative_attention_bias_;  // [buckets, num_heads], f32
  std::vector<Block> blocks_;
  RmsNorm final_layer_norm_;
  int64_t weight_bytes_ = 0;
  std::vector<LinearPlace> places_;
};

}  // namespace flux
