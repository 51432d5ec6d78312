#pragma once

#include <optional>
#include <vector>

#include "models/vae/vae_blocks.h"

namespace flux {

/// The encoder of diffusers' AutoencoderKL. Immutable after loading; forwards may run at once, each
/// with its own Context.
class VaeEncoder {
 public:
  /// Binds the encoder's weights. Throws naming file and tensor.
  VaeEncoder(const Loader& load, const VaeConfig& config);

  /// image: [3, H, W], f32, in [-1, 1]; H and W are multiples of scale_factor.
  /// moments: [2 latent_channels, H / scale_factor, W / scale_factor], T: the means of the latents'
  /// distribution, then the logarithms of its variances. Polls for cancellation.
  void forward(Context& ctx, const ConstTensor& image, const Tensor& moments) const;

  const VaeConfig& config() const { return config_; }
  /// T: the dtype that it computes in.
  DType dtype() const { return dtype_; }
  /// Bytes held for the weights.
  int64_t weight_bytes() const;

 private:
  VaeImage make_image(Context& ctx, int64_t height, int64_t width) const;

  VaeConfig config_;
  DType dtype_;
  Conv2d conv_in_;
  std::vector<VaeLevel> down_blocks_;
  VaeMidBlock mid_block_;
  GroupNorm conv_norm_out_;
  Conv2d conv_out_;
  std::optional<Conv2d> quant_conv_;
};

/// Whether the weights of an autoencoder have an encoder: files for text to image may lack it.
bool has_vae_encoder(const TensorStore& weights);
/// Whether the tensor of an autoencoder is of its encoder alone.
bool is_of_vae_encoder(std::string_view tensor);

}  // namespace flux
