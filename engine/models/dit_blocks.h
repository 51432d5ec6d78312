#pragma once

#include <vector>

#include "layers/linear.h"
#include "layers/modulation.h"
#include "layers/qk_norm.h"
#include "models/config.h"

namespace flux {

/// One image's rows of a batch: text, then image.
struct JointSequence {
  int64_t begin;
  int64_t image;  // the first row of the image
  int64_t end;
  Conditioning conditioning;  // [steps, inner_dim]: SiLU of the time, guidance and text embedding

  /// Its rows of a matrix that all rows of the batch share.
  Tensor rows(const Tensor& all) const { return all.slice(0, begin, end); }
  Tensor text_rows(const Tensor& all) const { return all.slice(0, begin, image); }
  Tensor image_rows(const Tensor& all) const { return all.slice(0, image, end); }
  RopeTable rows(const RopeTable& all) const { return {rows(all.cos), rows(all.sin)}; }
};

/// What blocks work on in place: sequences that attend each to itself, one after the other in one
/// matrix, so that nothing is ever concatenated.
struct JointBatch {
  Tensor hidden;  // [tokens, inner_dim], T
  std::vector<JointSequence> sequences;
  RopeTable rope;  // [tokens, head_dim / 2]
};

/// Queries, keys and values of one stream: a fused linear that ends with the norms of Q and K.
/// Queries come multiplied by log2(e) / sqrt(head_dim), so that softmax is of powers of two.
struct QkvProjection {
  QkvProjection() = default;
  /// linears: the names of the Q, K and V linears; norms: those of the Q and K norms.
  QkvProjection(Context& ctx, const WeightScope& attn, const TransformerConfig& config,
                const std::vector<std::string_view>& linears,
                const std::vector<std::string_view>& norms, DType dtype);

  /// x: [rows, inner_dim] -> out: [rows, 3 heads, head_dim] as q | k | v; q and k are normalised
  /// and rotated by the rows' angles.
  LinearPart part(const Tensor& x, const RopeTable& rope, const Tensor& out) const;
  int64_t bytes() const { return linear.bytes(); }

  Linear linear;
  QkNorm norm_q;
  QkNorm norm_k;
};

/// diffusers' FluxTransformerBlock: text and image have weights of their own and attend jointly.
class DoubleBlock {
 public:
  DoubleBlock(Context& ctx, const WeightScope& scope, const TransformerConfig& config, DType dtype);

  void forward(Context& ctx, const JointBatch& batch) const;
  int64_t bytes() const;

 private:
  struct Part;
  struct Stream {
    Modulation norm1;  // shift, scale, gate of the attention; shift, scale, gate of the MLP
    QkvProjection qkv;
    Linear to_out;
    Linear mlp_up;
    Linear mlp_down;
  };
  static Stream load_image_stream(Context& ctx, const WeightScope& scope,
                                  const TransformerConfig& config, DType dtype);
  static Stream load_text_stream(Context& ctx, const WeightScope& scope,
                                 const TransformerConfig& config, DType dtype);
  /// Text and image of each sequence, with their modulations in the workspace.
  std::vector<Part> make_parts(Context& ctx, const JointBatch& batch) const;

  TransformerConfig config_;
  Stream text_;
  Stream image_;
  AttentionOptions attention_options_;
};

/// diffusers' FluxSingleTransformerBlock: attention and MLP side by side over the whole sequence.
class SingleBlock {
 public:
  SingleBlock(Context& ctx, const WeightScope& scope, const TransformerConfig& config, DType dtype);

  /// With kImage, the text counts as keys and values but is not brought up to date: after the last
  /// block nobody reads it.
  enum class Update { kAll, kImage };
  void forward(Context& ctx, const JointBatch& batch, Update update) const;
  int64_t bytes() const;

 private:
  TransformerConfig config_;
  Modulation norm_;  // shift, scale, gate
  QkvProjection qkv_;
  AttentionOptions attention_options_;
  Linear proj_mlp_;
  Linear proj_out_;
};

}  // namespace flux
