#pragma once

#include <optional>
#include <vector>

#include "models/vae/vae_blocks.h"

namespace flux {

/// The decoder of diffusers' AutoencoderKL. Immutable after loading; forwards may run at once, each
/// with its own Context.
class VaeDecoder {
 public:
  /// Binds the decoder's weights. Throws naming file and tensor.
  VaeDecoder(const Loader& load, const VaeConfig& config);

  /// latents: [latent_channels, h, w], T, divided by scaling_factor, plus shift_factor.
  /// out: [3, H, W], f32, about [-1, 1]; H = h x scale_factor. Polls for cancellation.
  void forward(Context& ctx, const ConstTensor& latents, const Tensor& out) const;

  const VaeConfig& config() const { return config_; }
  /// Bytes held for the weights.
  int64_t weight_bytes() const;

 private:
  VaeImage make_image(Context& ctx, int64_t height, int64_t width) const;

  VaeConfig config_;
  DType dtype_;
  std::optional<Conv2d> post_quant_conv_;
  Conv2d conv_in_;
  VaeMidBlock mid_block_;
  std::vector<VaeLevel> up_blocks_;
  GroupNorm conv_norm_out_;
  Conv2d conv_out_;
};

}  // namespace flux
