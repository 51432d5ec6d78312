#pragma once

#include <optional>
#include <vector>

#include "layers/conv2d.h"
#include "layers/linear.h"
#include "layers/norms.h"
#include "models/vae/config.h"

/// What the encoder and the decoder of diffusers' AutoencoderKL are made of, on channels-last
/// images. Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models
/// (2022).
namespace flux {

/// The image of a forward, and two scratch buffers of the largest size that it needs; blocks swap
/// them.
struct VaeImage {
  /// Takes buffers from the workspace: `largest` elements for an image, `hidden` for the result of
  /// a resnet's first convolution.
  VaeImage(Context& ctx, DType dtype, int64_t largest, int64_t hidden);

  Tensor memory[3];  // flat; the image is in memory[0], the last is for a resnet's inside only
  int64_t height = 0;
  int64_t width = 0;
  int64_t channels = 0;

  /// Buffer `i` as an image of the current size with `count` channels.
  Tensor view(int i, int64_t count) const {
    return memory[i].slice(0, 0, height * width * count).reshape({height, width, count});
  }
  Tensor image() const { return view(0, channels); }
  /// Buffer 0 as [pixels, channels].
  Tensor rows() const { return image().reshape({height * width, channels}); }

  /// The image becomes the result of the convolution, of another size where it has one.
  void apply(Context& ctx, const Conv2d& conv);
};

/// diffusers' ResnetBlock2D without time embedding.
class VaeResnet {
 public:
  VaeResnet() = default;
  VaeResnet(const Loader& load, const VaeConfig& config, int64_t in, int64_t out);

  void operator()(Context& ctx, VaeImage& image) const;
  int64_t bytes() const;

 private:
  GroupNorm norm1_;
  Conv2d conv1_;
  GroupNorm norm2_;
  Conv2d conv2_;
  std::optional<Conv2d> conv_shortcut_;  // where the number of channels changes
};

/// diffusers' Attention of the middle block: one head over all channels.
class VaeAttention {
 public:
  VaeAttention(const Loader& load, const VaeConfig& config, int64_t channels);

  void operator()(Context& ctx, VaeImage& image) const;
  int64_t bytes() const { return qkv_.bytes() + to_out_.bytes(); }

 private:
  GroupNorm group_norm_;
  Linear qkv_;
  Linear to_out_;
};

/// diffusers' UNetMidBlock2D.
class VaeMidBlock {
 public:
  VaeMidBlock() = default;
  VaeMidBlock(const Loader& load, const VaeConfig& config, int64_t channels);

  void operator()(Context& ctx, VaeImage& image) const;
  int64_t bytes() const;

 private:
  VaeResnet resnets_[2];
  std::optional<VaeAttention> attention_;
};

/// diffusers' DownEncoderBlock2D or UpDecoderBlock2D.
struct VaeLevel {
  std::vector<VaeResnet> resnets;
  std::optional<Conv2d> resize;  // the downsampler or upsampler; none at the last level

  void operator()(Context& ctx, VaeImage& image) const;
  int64_t bytes() const;
};

}  // namespace flux
