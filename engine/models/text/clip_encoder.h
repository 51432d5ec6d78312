#pragma once

#include <span>
#include <vector>

#include "layers/linear.h"
#include "layers/norms.h"
#include "models/text/config.h"

namespace flux {

/// transformers' CLIPTextModel, as far as its pooled output needs it. Immutable after loading;
/// forwards may run at once, each with its own Context.
class ClipEncoder {
 public:
  /// Binds every weight of the component. Throws naming file and tensor.
  ClipEncoder(const Loader& load, const ClipConfig& config);

  /// ids: at most max_position_embeddings token ids; the end token marks the pooled position.
  /// out: [hidden_size], T.
  void forward(Context& ctx, std::span<const int32_t> ids, const Tensor& out,
               Adapters adapters = {}) const;

  /// Bytes held for the weights.
  int64_t weight_bytes() const { return weight_bytes_; }
  /// Its linears, in the order of AdapterWeights::by_linear.
  std::span<const LinearPlace> places() const { return places_; }

 private:
  struct Layer {
    LayerNorm layer_norm1;
    Linear qkv;
    Linear out_proj;
    LayerNorm layer_norm2;
    Linear fc1;
    Linear fc2;
  };
  void run_layer(Context& ctx, const Layer& layer, const Tensor& hidden, Adapters adapters) const;

  ClipConfig config_;
  DType dtype_;
  StoredTensor token_embedding_;
  StoredTensor position_embedding_;
  std::vector<Layer> layers_;
  LayerNorm final_layer_norm_;
  int64_t weight_bytes_ = 0;
  std::vector<LinearPlace> places_;
};

}  // namespace flux
