#pragma once

#include <optional>
#include <vector>

#include "layers/conv2d.h"
#include "layers/linear.h"
#include "layers/norms.h"
#include "models/vae/config.h"

namespace flux {

/// The decoder of diffusers' AutoencoderKL, on channels-last images. Source: Rombach et al.,
/// High-Resolution Image Synthesis with Latent Diffusion Models (2022). Immutable after loading;
/// forwards may run at once, each with its own Context.
class VaeDecoder {
 public:
  /// Binds the decoder's weights. Throws naming file and tensor.
  VaeDecoder(const Loader& load, const VaeConfig& config);

  /// latents: [latent_channels, h, w], T, divided by scaling_factor, plus shift_factor.
  /// out: [3, H, W], f32, about [-1, 1]; H = h x scale_factor. Polls for cancellation.
  void forward(Context& ctx, const ConstTensor& latents, const Tensor& out) const;

  const VaeConfig& config() const { return config_; }
  /// Bytes held for the weights.
  int64_t weight_bytes() const { return weight_bytes_; }

 private:
  /// diffusers' ResnetBlock2D without time embedding.
  struct Resnet {
    GroupNorm norm1;
    Conv2d conv1;
    GroupNorm norm2;
    Conv2d conv2;
    std::optional<Conv2d> conv_shortcut;  // where the number of channels changes
  };
  /// diffusers' Attention of the middle block: one head over all channels.
  struct Attention {
    GroupNorm group_norm;
    Linear qkv;
    Linear to_out;
  };
  struct UpBlock {
    std::vector<Resnet> resnets;
    std::optional<Conv2d> upsampler;
  };
  /// The image and two scratch buffers of the largest size a forward needs; blocks swap them.
  struct Buffers;

  Resnet load_resnet(const Loader& load, int64_t in, int64_t out);
  Attention load_attention(const Loader& load, int64_t channels);
  Conv2d load_conv(const Loader& load, int64_t in, int64_t out, int64_t kernel,
                   Conv2d::Size size = Conv2d::Size::kSame);
  Buffers make_buffers(Context& ctx, int64_t height, int64_t width) const;
  static void run_resnet(Context& ctx, const Resnet& resnet, Buffers& image);
  void run_attention(Context& ctx, Buffers& image) const;
  static void run_upsampler(Context& ctx, const Conv2d& conv, Buffers& image);

  VaeConfig config_;
  DType dtype_;
  std::optional<Conv2d> post_quant_conv_;
  Conv2d conv_in_;
  Resnet mid_resnets_[2];
  std::optional<Attention> mid_attention_;
  std::vector<UpBlock> up_blocks_;
  GroupNorm conv_norm_out_;
  Conv2d conv_out_;
  int64_t weight_bytes_ = 0;
};

}  // namespace flux
