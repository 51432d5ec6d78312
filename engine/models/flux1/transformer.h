#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "layers/timestep_embedding.h"
#include "models/flux1/blocks.h"

namespace flux {

/// The step that an image is at: one of its schedule's timesteps.
struct StepClock {
  /// The timesteps of all steps, each in [0, 1] as FluxPipeline passes it.
  std::shared_ptr<const std::vector<float>> timesteps;
  size_t step = 0;

  /// The clock of a caller who knows one step alone.
  static StepClock single(float timestep) {
    return {std::make_shared<const std::vector<float>>(1, timestep), 0};
  }
  float timestep() const { return (*timesteps)[step]; }
  size_t steps() const { return timesteps->size(); }
};

/// The state that a transformer keeps for the steps of one image, in one context: tensors that
/// depend only on the values that all its steps share (pooled projections, guidance, timesteps).
struct StepState {
  ConstTensor conditioning;              // [steps, inner_dim], T; undefined until the first step
  std::vector<ConstTensor> modulations;  // see Conditioning::kept
};

/// Tokens that enter a sequence together: those of the image that is generated, or of another one
/// that it attends to.
struct ImageTokens {
  ConstTensor hidden_states;  // [tokens, in_channels], T: packed latents
  ConstTensor img_ids;        // [tokens, axes], f32: (0, row, column)
  /// [tokens, out_channels], T: the result is written here; undefined for tokens whose noise is not
  /// predicted.
  Tensor noise_pred;
};

/// One image's row of a transformer call. Rows of a call may differ in every size.
struct TransformerInput {
  std::vector<ImageTokens> images;    // in the order of the sequence
  ConstTensor encoder_hidden_states;  // [text tokens, joint_attention_dim], T
  ConstTensor txt_ids;                // [text tokens, axes], f32: zeros
  ConstTensor pooled_projections;     // [pooled_projection_dim], T
  std::optional<float> guidance;      // present exactly when the model has guidance embeddings
  StepClock clock;
  std::span<const AdapterChoice> chosen = {};  // adapters, as the request has them
  std::vector<AppliedAdapter> adapters = {};   // what they are for this model's places()
  StepState* state = nullptr;  // of this image; null where nothing is kept between steps

  /// Text and image tokens.
  int64_t tokens() const;
};

/// diffusers' FluxTransformer2DModel, the diffusion transformer of FLUX.1. Source: Black Forest
/// Labs' FLUX.1; Esser et al., Scaling Rectified Flow Transformers (2024). Immutable after loading;
/// forwards may run at once, each with its own Context.
class FluxTransformer {
 public:
  /// Binds every weight of the component. Throws naming file and tensor.
  FluxTransformer(const Loader& load, const FluxTransformerConfig& config);
  FluxTransformer(FluxTransformer&&) = delete;

  /// One denoising step of each row, computed together; a row's bits do not depend on the others.
  /// Polls for cancellation between blocks. Throws kInvalidArgument for a guidance that does not
  /// fit the model. `nearly_done`, if given, becomes a point a few blocks before the end (null on a
  /// CPU): whoever waits for it can ask for the next step before the device is idle.
  void forward(Context& ctx, std::span<const TransformerInput> rows,
               std::shared_ptr<const Fence>* nearly_done = nullptr) const;

  /// Bytes held for the weights.
  int64_t weight_bytes() const;
  /// Its linears, in the order of AdapterWeights::by_linear.
  std::span<const LinearPlace> places() const { return places_; }

 private:
  /// out: [1, inner_dim]: SiLU of the embedded time, guidance and pooled text.
  void embed_conditioning(Context& ctx, const TransformerInput& input, float timestep,
                          const Tensor& out) const;
  Conditioning make_conditioning(Context& ctx, const TransformerInput& input) const;
  /// The batch, its rows embedded, in the workspace of `ctx`.
  JointBatch embed(Context& ctx, std::span<const TransformerInput> rows) const;
  /// The noise of a batch that has passed the blocks.
  void predict(Context& ctx, const JointBatch& batch, std::span<const TransformerInput> rows) const;
  size_t block_count() const;
  /// Whether the products of the blocks are of e4m3.
  bool takes_e4m3() const;
  /// Two for each double-stream block, one for each single-stream block, and norm_out's.
  size_t modulation_count() const;

  FluxTransformerConfig config_;
  DType dtype_;
  Linear x_embedder_;
  Linear context_embedder_;
  TwoLayerEmbedding timestep_embedder_;
  TwoLayerEmbedding guidance_embedder_;
  TwoLayerEmbedding text_embedder_;
  std::vector<FluxTransformerBlock> transformer_blocks_;
  std::vector<FluxSingleTransformerBlock> single_transformer_blocks_;
  Modulation norm_out_;  // scale, shift: the other way round than in the blocks
  Linear proj_out_;
  std::vector<LinearPlace> places_;
};

}  // namespace flux
