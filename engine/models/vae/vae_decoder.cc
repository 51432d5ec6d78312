#include "models/vae/vae_decoder.h"

#include <algorithm>
#include <utility>

#include "tensor/format.h"

namespace flux {

VaeDecoder::VaeDecoder(const Loader& load, const VaeConfig& config)
    : config_(config), dtype_(load.dtype()) {
  const Loader decoder = load / "decoder";
  const std::vector<int64_t>& widths = config.block_out_channels;
  const int64_t latent = config.latent_channels;
  const int64_t deepest = widths.back();
  if (config.use_post_quant_conv) {
    post_quant_conv_.emplace(load / "post_quant_conv", latent, latent, 1);
  }
  conv_in_ = Conv2d(decoder / "conv_in", latent, deepest, 3);
  mid_block_ = VaeMidBlock(decoder / "mid_block", config, deepest);
  int64_t in = deepest;
  for (size_t i = 0; i < widths.size(); ++i) {
    const int64_t out = widths[widths.size() - 1 - i];
    const Loader from = decoder / "up_blocks" / static_cast<int64_t>(i);
    VaeLevel level;
    for (int64_t j = 0; j <= config.layers_per_block; ++j) {
      level.resnets.emplace_back(from / "resnets" / j, config, j == 0 ? in : out, out);
    }
    if (i + 1 < widths.size()) {
      level.resize.emplace(from / "upsamplers" / "0" / "conv", out, out, 3, ConvSize::kDoubled);
    }
    up_blocks_.push_back(std::move(level));
    in = out;
  }
  conv_norm_out_ =
      GroupNorm(decoder / "conv_norm_out", in, config.norm_num_groups, Activation::kSilu);
  conv_out_ = Conv2d(decoder / "conv_out", in, config.out_channels, 3);
  load.weights().warn_of_unused({"encoder.", "quant_conv."});
}

int64_t VaeDecoder::weight_bytes() const {
  int64_t sum = conv_in_.bytes() + mid_block_.bytes() + conv_out_.bytes();
  if (post_quant_conv_) sum += post_quant_conv_->bytes();
  for (const VaeLevel& level : up_blocks_) sum += level.bytes();
  return sum;
}

VaeImage VaeDecoder::make_image(Context& ctx, int64_t height, int64_t width) const {
  const std::vector<int64_t>& widths = config_.block_out_channels;
  int64_t largest = std::max(config_.latent_channels, widths.back());
  int64_t hidden = widths.back();  // largest result of a block's first convolution
  int64_t pixels = 1;              // of the block, in units of latent pixels
  for (size_t i = 0; i < widths.size(); ++i) {
    const size_t level = widths.size() - 1 - i;
    const int64_t in = level + 1 < widths.size() ? widths[level + 1] : widths[level];
    largest = std::max(largest, pixels * std::max(in, widths[level]));
    hidden = std::max(hidden, pixels * widths[level]);
    if (level > 0) pixels *= 4;
  }
  largest = std::max(largest, pixels * config_.out_channels);
  VaeImage image(ctx, dtype_, largest * height * width, hidden * height * width);
  image.height = height;
  image.width = width;
  return image;
}

void VaeDecoder::forward(Context& ctx, const ConstTensor& latents, const Tensor& out) const {
  const Context::Range range(ctx, "vae_decoder");
  const Workspace::Scope scope(ctx.workspace());
  VaeImage image = make_image(ctx, latents.size(1), latents.size(2));
  image.channels = config_.latent_channels;
  const int64_t latent_pixels = image.height * image.width;
  transpose(ctx, to_workspace(ctx, latents).reshape({image.channels, latent_pixels}), image.rows());
  if (post_quant_conv_) image.apply(ctx, *post_quant_conv_);
  image.apply(ctx, conv_in_);
  ctx.trace("conv_in", image.image());
  mid_block_(ctx, image);
  for (size_t i = 0; i < up_blocks_.size(); ++i) {
    const Context::Range block(ctx, "up_blocks", static_cast<int64_t>(i));
    up_blocks_[i](ctx, image);
    if (ctx.is_traced()) ctx.trace(fmt::format("up_blocks.{}", i), image.image());
  }
  conv_norm_out_(ctx, image.image(), image.image());
  image.apply(ctx, conv_out_);
  const Tensor result = result_for(ctx, out);
  transpose(ctx, image.rows(), result.reshape({image.channels, image.height * image.width}));
  copy(ctx, result, out);
}

}  // namespace flux
