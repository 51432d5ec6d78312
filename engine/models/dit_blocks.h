#pragma once

#include "layers/linear.h"
#include "layers/modulation.h"
#include "layers/norms.h"
#include "models/config.h"

namespace flux {

/// The joint sequence that blocks work on in place: text rows, then image rows, in one matrix, so
/// that nothing is ever concatenated.
struct JointSequence {
  Tensor hidden;              // [text + image tokens, inner_dim], T
  int64_t text_tokens;        // the first rows
  Conditioning conditioning;  // [steps, inner_dim]: SiLU of the time, guidance and text embedding
  RopeTable rope;             // [text + image tokens, head_dim / 2]
};

/// Queries, keys and values of one stream: a fused linear, and the norms of Q and K.
struct QkvProjection {
  QkvProjection() = default;
  /// linears: the names of the Q, K and V linears; norms: those of the Q and K norms.
  QkvProjection(Context& ctx, const WeightScope& attn, const TransformerConfig& config,
                const std::vector<std::string_view>& linears,
                const std::vector<std::string_view>& norms, DType dtype);

  /// x: [rows, inner_dim] -> out: [rows, 3 heads, head_dim] as q | k | v, Q and K normalised and
  /// rotated by the rows' angles.
  void operator()(Context& ctx, const Tensor& x, const RopeTable& rope, const Tensor& out) const;
  int64_t bytes() const { return linear.bytes(); }

  Linear linear;
  RmsNorm norm_q;
  RmsNorm norm_k;
};

/// diffusers' FluxTransformerBlock: text and image have weights of their own and attend jointly.
class DoubleBlock {
 public:
  DoubleBlock(Context& ctx, const WeightScope& scope, const TransformerConfig& config, DType dtype);

  void forward(Context& ctx, const JointSequence& sequence) const;
  int64_t bytes() const;

 private:
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

  TransformerConfig config_;
  Stream text_;
  Stream image_;
};

/// diffusers' FluxSingleTransformerBlock: attention and MLP side by side over the whole sequence.
class SingleBlock {
 public:
  SingleBlock(Context& ctx, const WeightScope& scope, const TransformerConfig& config, DType dtype);

  /// Rows before `first_row` count as keys and values but are not brought up to date: after the
  /// last block nobody reads the text.
  void forward(Context& ctx, const JointSequence& sequence, int64_t first_row) const;
  int64_t bytes() const;

 private:
  TransformerConfig config_;
  Modulation norm_;  // shift, scale, gate
  QkvProjection qkv_;
  Linear proj_mlp_;
  Linear proj_out_;
};

}  // namespace flux
