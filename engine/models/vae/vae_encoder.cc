#include "models/vae/vae_encoder.h"

#include <algorithm>
#include <utility>

#include "support/error.h"
#include "tensor/format.h"

namespace flux {

VaeEncoder::VaeEncoder(const Loader& load, const VaeConfig& config)
    : config_(config), dtype_(load.dtype()) {
  const Loader encoder = load / "encoder";
  const std::vector<int64_t>& widths = config.block_out_channels;
  const int64_t moments = 2 * config.latent_channels;
  conv_in_ = Conv2d(encoder / "conv_in", config.in_channels, widths[0], 3);
  int64_t in = widths[0];
  for (size_t i = 0; i < widths.size(); ++i) {
    const Loader from = encoder / "down_blocks" / static_cast<int64_t>(i);
    VaeLevel level;
    for (int64_t j = 0; j < config.layers_per_block; ++j) {
      level.resnets.emplace_back(from / "resnets" / j, config, j == 0 ? in : widths[i], widths[i]);
    }
    in = widths[i];
    if (i + 1 < widths.size()) {
      level.resize.emplace(from / "downsamplers" / "0" / "conv", in, in, 3, ConvSize::kHalved);
    }
    down_blocks_.push_back(std::move(level));
  }
  mid_block_ = VaeMidBlock(encoder / "mid_block", config, in);
  conv_norm_out_ =
      GroupNorm(encoder / "conv_norm_out", in, config.norm_num_groups, Activation::kSilu);
  conv_out_ = Conv2d(encoder / "conv_out", in, moments, 3);
  if (config.use_quant_conv) quant_conv_.emplace(load / "quant_conv", moments, moments, 1);
  load.weights().warn_of_unused({"decoder.", "post_quant_conv."});
}

int64_t VaeEncoder::weight_bytes() const {
  int64_t sum = conv_in_.bytes() + mid_block_.bytes() + conv_out_.bytes();
  if (quant_conv_) sum += quant_conv_->bytes();
  for (const VaeLevel& level : down_blocks_) sum += level.bytes();
  return sum;
}

VaeImage VaeEncoder::make_image(Context& ctx, int64_t height, int64_t width) const {
  const std::vector<int64_t>& widths = config_.block_out_channels;
  int64_t largest = height * width * config_.in_channels;
  int64_t hidden = 0;  // largest result of a block's first convolution
  int64_t pixels = height * width;
  for (size_t i = 0; i < widths.size(); ++i) {
    const int64_t in = widths[i > 0 ? i - 1 : 0];
    largest = std::max(largest, pixels * std::max(in, widths[i]));
    hidden = std::max(hidden, pixels * widths[i]);
    if (i + 1 < widths.size()) pixels /= 4;
  }
  largest = std::max(largest, pixels * 2 * config_.latent_channels);
  VaeImage image(ctx, dtype_, largest, hidden);
  image.height = height;
  image.width = width;
  return image;
}

void VaeEncoder::forward(Context& ctx, const ConstTensor& pixels, const Tensor& moments) const {
  const int64_t factor = config_.scale_factor();
  check(pixels.size(1) % factor == 0 && pixels.size(2) % factor == 0, ErrorCode::kInternal,
        "the VAE's encoder is given {}: sides are multiples of {}", pixels, factor);
  const Context::Range range(ctx, "vae_encoder");
  const Workspace::Scope scope(ctx.workspace());
  VaeImage image = make_image(ctx, pixels.size(1), pixels.size(2));
  image.channels = config_.in_channels;
  const Shape planes{image.channels, image.height * image.width};
  const Tensor typed = ctx.workspace().allocate(planes, dtype_);
  cast(ctx, to_workspace(ctx, pixels).reshape(planes), typed);
  transpose(ctx, typed, image.rows());
  image.apply(ctx, conv_in_);
  ctx.trace("conv_in", image.image());
  for (size_t i = 0; i < down_blocks_.size(); ++i) {
    const Context::Range block(ctx, "down_blocks", static_cast<int64_t>(i));
    down_blocks_[i](ctx, image);
    if (ctx.is_traced()) ctx.trace(fmt::format("down_blocks.{}", i), image.image());
  }
  mid_block_(ctx, image);
  conv_norm_out_(ctx, image.image(), image.image());
  image.apply(ctx, conv_out_);
  if (quant_conv_) image.apply(ctx, *quant_conv_);
  const Tensor result = result_for(ctx, moments);
  transpose(ctx, image.rows(), result.reshape({image.channels, image.height * image.width}));
  copy(ctx, result, moments);
}

bool has_vae_encoder(const TensorStore& weights) {
  const std::string first = "encoder.conv_in.weight";
  return weights.find(first) != nullptr || !weights.why_unreadable(first).empty();
}

bool is_of_vae_encoder(std::string_view tensor) {
  return tensor.starts_with("encoder.") || tensor.starts_with("quant_conv.");
}

}  // namespace flux
