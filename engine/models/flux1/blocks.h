#pragma once

#include <string_view>
#include <vector>

#include "layers/linear.h"
#include "layers/modulation.h"
#include "layers/qk_norm.h"
#include "models/flux1/config.h"

namespace flux {

/// One sequence's rows of a batch: text, then image tokens. It attends to itself alone.
struct JointSequence {
  int64_t begin;
  int64_t image;  // the first row of image tokens
  int64_t end;
  Conditioning conditioning;  // [steps, inner_dim]

  /// The sequence's rows of a matrix that has the rows of the whole batch.
  Tensor rows(const Tensor& all) const { return all.slice(0, begin, end); }
  Tensor text_rows(const Tensor& all) const { return all.slice(0, begin, image); }
  Tensor image_rows(const Tensor& all) const { return all.slice(0, image, end); }
};

/// The sequences that blocks change in place, one after the other in one matrix, so that nothing is
/// ever concatenated.
struct JointBatch {
  Tensor hidden;  // [tokens, inner_dim], T
  std::vector<JointSequence> sequences;
  RopeTable rope;  // [tokens, head_dim / 2]
  /// Where linears take e4m3: the scale of the values of each sequence in each block, at first 0.
  Tensor value_scales;  // [blocks, sequences], f32

  /// [1], or undefined.
  Tensor value_scale(size_t block, size_t sequence) const {
    if (!value_scales.defined()) return {};
    const auto i = static_cast<int64_t>(sequence);
    return value_scales[static_cast<int64_t>(block)].slice(0, i, i + 1);
  }
};

/// Queries, keys and values of one stream: a fused linear whose epilogue norms and rotates Q and K.
/// Queries are multiplied by log2(e) / sqrt(head_dim), so that softmax is of powers of two.
struct QkvProjection {
  QkvProjection() = default;
  /// linears: the names of the Q, K and V linears; norms: those of the Q and K norms.
  QkvProjection(const Loader& attn, const FluxTransformerConfig& config,
                const std::vector<std::string_view>& linears,
                const std::vector<std::string_view>& norms);

  /// The result is [rows, q | k | v of heads x head_dim]; q and k are normed and rotated by the
  /// rows' angles. value_scale: undefined, or HeadNorm::others_scale.
  Epilogue epilogue(int64_t heads, const RopeTable& rope, const Tensor& value_scale) const;
  int64_t bytes() const { return linear.bytes(); }

  Linear linear;
  QkNorm norm_q;
  QkNorm norm_k;
};

/// diffusers' FluxTransformerBlock: text and image tokens have weights of their own and attend
/// jointly ("double-stream").
class FluxTransformerBlock {
 public:
  /// `modulation`: the index of the first of its two modulations in Conditioning::kept.
  FluxTransformerBlock(const Loader& load, const FluxTransformerConfig& config, size_t modulation);

  /// `block`: its index among all blocks of the model.
  void forward(Context& ctx, const JointBatch& batch, size_t block) const;
  bool takes_e4m3() const { return image_.qkv.linear.takes_e4m3(); }
  int64_t bytes() const;

 private:
  struct Segment;
  /// The weights of one kind of token.
  struct Stream {
    Modulation norm1;  // shift, scale, gate of the attention; shift, scale, gate of the MLP
    QkvProjection qkv;
    Linear to_out;
    Linear mlp_up;
    Linear mlp_down;
  };
  /// The text and the image segment of each sequence, with their modulations in the workspace.
  std::vector<Segment> make_segments(Context& ctx, const JointBatch& batch) const;

  FluxTransformerConfig config_;
  Stream text_;
  Stream image_;
  AttentionOptions attention_options_;
};

/// diffusers' FluxSingleTransformerBlock: attention and MLP side by side over the whole sequence
/// ("single-stream").
class FluxSingleTransformerBlock {
 public:
  /// `modulation`: the index of its modulation in Conditioning::kept.
  FluxSingleTransformerBlock(const Loader& load, const FluxTransformerConfig& config,
                             size_t modulation);

  /// The rows that are updated. With kImage, text rows are keys and values only: nothing reads them
  /// after the last block.
  enum class Update { kAll, kImage };
  /// `block`: its index among all blocks of the model.
  void forward(Context& ctx, const JointBatch& batch, size_t block, Update update) const;
  bool takes_e4m3() const { return qkv_.linear.takes_e4m3(); }
  int64_t bytes() const;

 private:
  struct Segment;
  std::vector<Segment> make_segments(Context& ctx, const JointBatch& batch, Update update) const;

  FluxTransformerConfig config_;
  Modulation norm_;  // shift, scale, gate
  QkvProjection qkv_;
  Linear proj_mlp_;
  Linear proj_out_;
  AttentionOptions attention_options_;
};

}  // namespace flux
