#pragma once

#include <span>
#include <string>
#include <vector>

#include "models/flux1/transformer.h"
#include "pipeline/posterior.h"
#include "pipeline/stage_kind.h"
#include "tensor/tensor.h"

namespace flux {

struct TextInput {
  std::string prompt;       // to CLIP
  std::string prompt_2;     // to T5
  int max_sequence_length;  // T5 tokens
  std::span<const AdapterChoice> adapters = {};
};

/// The encoders that take less than a text and cut it: CLIP drops the end of every long prompt,
/// T5 only what is beyond max_sequence_length.
struct Truncation {
  bool clip = false;
  bool t5 = false;

  bool any() const { return clip || t5; }
  /// "", "clip", "t5" or "clip,t5".
  std::string names() const {
    return std::string(clip ? "clip" : "") + (clip && t5 ? "," : "") + (t5 ? "t5" : "");
  }
  Truncation& operator|=(const Truncation& other) {
    clip |= other.clip;
    t5 |= other.t5;
    return *this;
  }
};

struct TextEmbeddings {
  ConstTensor pooled_prompt_embeds;  // [pooled_dim], T
  ConstTensor prompt_embeds;         // [max_sequence_length, joint_dim], T
  Truncation truncated;
};

/// The models of a pipeline, in this process (LocalStages) or behind a server. A call may throw
/// kCancelled. Tensors given and returned are in host memory or on the device of context(); T is
/// the compute dtype.
class Stages {
 public:
  virtual ~Stages() = default;

  /// The context of the arithmetic between the stages.
  virtual Context& context() = 0;

  /// Both text encoders. Source: FluxPipeline.encode_prompt.
  virtual std::vector<TextEmbeddings> encode(std::span<const TextInput> rows) = 0;
  /// AutoencoderKL.encode. image: [3, H, W], f32, in [-1, 1]; H and W are multiples of the VAE's
  /// factor. Returns latents [latent_channels, H / factor, W / factor], T, as the model has them,
  /// neither shifted nor scaled: one sample for each draw, or the mean where there is none.
  virtual std::vector<Tensor> encode_image(const ConstTensor& image,
                                           std::span<const PosteriorDraw> draws) = 0;
  /// One step of FluxTransformer2DModel for each row; their `state` is the callee's to set.
  virtual void transformer(std::span<const TransformerInput> rows) = 0;
  /// AutoencoderKL.decode. latents: [latent_channels, h, w], T, already divided by scaling_factor
  /// plus shift_factor. Returns [3, H, W], f32, about [-1, 1].
  virtual Tensor decode(const ConstTensor& latents) = 0;
};

}  // namespace flux
