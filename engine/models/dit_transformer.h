#pragma once

#include <map>
#include <optional>
#include <span>
#include <vector>

#include "layers/timestep_embedding.h"
#include "models/dit_blocks.h"

namespace flux {

/// What a forward keeps for the other steps of its image, between calls with the same context,
/// guidance and pooled projections. Starts empty.
struct KeptConditioning {
  Tensor rows;  // [steps, inner_dim], T
  std::map<const Modulation*, Tensor> modulations;
};

/// One image's share of a transformer call. Rows of a call may differ in every size.
struct TransformerInput {
  Tensor hidden_states;           // [image tokens, in_channels], T: packed latents
  float timestep = 0;             // in [0, 1], as FluxPipeline passes it
  std::optional<float> guidance;  // present exactly when the model has guidance embeddings
  Tensor pooled_projections;      // [pooled_projection_dim], T
  Tensor encoder_hidden_states;   // [text tokens, joint_attention_dim], T
  Tensor img_ids;                 // [image tokens, 3], f32: (0, row, column)
  Tensor txt_ids;                 // [text tokens, 3], f32: zeros
  Tensor noise_pred;              // [image tokens, out_channels], T: the result is written here
  /// The timesteps of all steps of the image, `timestep` among them, where they are known: what
  /// depends on them alone can then be computed for all at once.
  std::span<const float> timesteps;
  KeptConditioning* kept = nullptr;  // given with timesteps, or null
};

/// diffusers' FluxTransformer2DModel, the diffusion transformer of FLUX.1. Source: Black Forest
/// Labs' FLUX.1; Esser et al., Scaling Rectified Flow Transformers (2024). Immutable after loading;
/// forwards may run at once, each with its own Context.
class DitTransformer {
 public:
  /// Binds every weight of `files`. dtype: f32 or bf16. Throws naming file and tensor.
  DitTransformer(Context& ctx, const TransformerConfig& config, const WeightFiles& files,
                 DType dtype);

  /// One denoising step of each image. Where the device is busier with several at once they are
  /// computed together, as far as its memory goes; a row's bits do not depend on that. Polls for
  /// cancellation between blocks. `nearly_done`, if given, becomes a point a few blocks before the
  /// end (null on a CPU): whoever waits for it can ask for the next step before the device is idle.
  void forward(Context& ctx, std::span<const TransformerInput> rows,
               std::shared_ptr<const Fence>* nearly_done = nullptr) const;

  /// Bytes held for the weights.
  int64_t weight_bytes() const;

 private:
  /// out: [1, inner_dim]: SiLU of the embedded time, guidance and pooled text.
  void embed_conditioning(Context& ctx, const TransformerInput& input, float timestep,
                          const Tensor& out) const;
  Conditioning make_conditioning(Context& ctx, const TransformerInput& input) const;
  /// The batch, its rows embedded, in the workspace of `ctx`.
  JointBatch embed(Context& ctx, std::span<const TransformerInput> rows) const;
  /// The noise of a batch that has passed the blocks.
  void predict(Context& ctx, const JointBatch& batch, std::span<const TransformerInput> rows) const;
  void forward_together(Context& ctx, std::span<const TransformerInput> rows,
                        std::shared_ptr<const Fence>* nearly_done) const;

  TransformerConfig config_;
  DType dtype_;
  Linear x_embedder_;
  Linear context_embedder_;
  TwoLayerEmbedding timestep_embedder_;
  TwoLayerEmbedding guidance_embedder_;
  TwoLayerEmbedding text_embedder_;
  std::vector<DoubleBlock> transformer_blocks_;
  std::vector<SingleBlock> single_transformer_blocks_;
  Modulation norm_out_;  // scale, shift: the other way round than in the blocks
  Linear proj_out_;
};

}  // namespace flux
