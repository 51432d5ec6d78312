#include "models/vae/vae_decoder.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "support/error.h"

namespace flux {
namespace {

constexpr int64_t kImageChannels = 3;

}  // namespace

struct VaeDecoder::Buffers {
  Tensor memory[3];  // flat; the image is in memory[0], the last is for a resnet's inside only
  int64_t height = 0;
  int64_t width = 0;
  int64_t channels = 0;

  /// Buffer `i` as an image of the current size with `count` channels.
  Tensor view(int i, int64_t count) const {
    return memory[i].slice(0, 0, height * width * count).reshape({height, width, count});
  }
  Tensor image() const { return view(0, channels); }
};

VaeDecoder::VaeDecoder(const Loader& load, const VaeConfig& config)
    : config_(config), dtype_(load.dtype()) {
  const Loader decoder = load / "decoder";
  const std::vector<int64_t>& widths = config.block_out_channels;
  const int64_t latent = config.latent_channels;
  const int64_t deepest = widths.back();
  if (config.use_post_quant_conv) {
    post_quant_conv_ = load_conv(load / "post_quant_conv", latent, latent, 1);
  }
  conv_in_ = load_conv(decoder / "conv_in", latent, deepest, 3);
  const Loader mid = decoder / "mid_block";
  for (int64_t i = 0; i < 2; ++i) {
    mid_resnets_[i] = load_resnet(mid / "resnets" / i, deepest, deepest);
  }
  if (config.mid_block_add_attention) {
    mid_attention_ = load_attention(mid / "attentions" / "0", deepest);
  }
  int64_t in = deepest;
  for (size_t i = 0; i < widths.size(); ++i) {
    const int64_t out = widths[widths.size() - 1 - i];
    const Loader from = decoder / "up_blocks" / static_cast<int64_t>(i);
    UpBlock block;
    for (int64_t j = 0; j <= config.layers_per_block; ++j) {
      block.resnets.push_back(load_resnet(from / "resnets" / j, j == 0 ? in : out, out));
    }
    if (i + 1 < widths.size()) {
      block.upsampler =
          load_conv(from / "upsamplers" / "0" / "conv", out, out, 3, Conv2d::Size::kDoubled);
    }
    up_blocks_.push_back(std::move(block));
    in = out;
  }
  conv_norm_out_ =
      GroupNorm(decoder / "conv_norm_out", in, config.norm_num_groups, Activation::kSilu);
  conv_out_ = load_conv(decoder / "conv_out", in, kImageChannels, 3);
  load.weights().warn_of_unused({"encoder.", "quant_conv."});
}

Conv2d VaeDecoder::load_conv(const Loader& load, int64_t in, int64_t out, int64_t kernel,
                             Conv2d::Size size) {
  Conv2d conv(load, in, out, kernel, size);
  weight_bytes_ += conv.bytes();
  return conv;
}

VaeDecoder::Resnet VaeDecoder::load_resnet(const Loader& load, int64_t in, int64_t out) {
  const int64_t groups = config_.norm_num_groups;
  Resnet resnet;
  resnet.norm1 = GroupNorm(load / "norm1", in, groups, Activation::kSilu);
  resnet.conv1 = load_conv(load / "conv1", in, out, 3);
  resnet.norm2 = GroupNorm(load / "norm2", out, groups, Activation::kSilu);
  resnet.conv2 = load_conv(load / "conv2", out, out, 3);
  if (in != out) resnet.conv_shortcut = load_conv(load / "conv_shortcut", in, out, 1);
  return resnet;
}

VaeDecoder::Attention VaeDecoder::load_attention(const Loader& load, int64_t channels) {
  // Old checkpoints carry the names of diffusers' first attention class.
  const bool old = load.weights().contains("query.weight");
  const std::vector<std::string_view> names =
      old ? std::vector<std::string_view>{"query", "key", "value"}
          : std::vector<std::string_view>{"to_q", "to_k", "to_v"};
  Attention attention;
  attention.group_norm =
      GroupNorm(load / "group_norm", channels, config_.norm_num_groups, Activation::kNone);
  attention.qkv = Linear(load, names, channels, channels);
  attention.to_out = Linear(old ? load / "proj_attn" : load / "to_out" / "0", channels, channels);
  weight_bytes_ += attention.qkv.bytes() + attention.to_out.bytes();
  return attention;
}

VaeDecoder::Buffers VaeDecoder::make_buffers(Context& ctx, int64_t height, int64_t width) const {
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
  largest = std::max(largest, pixels * kImageChannels);
  Buffers buffers;
  for (int i = 0; i < 3; ++i) {
    const int64_t size = i == 2 ? hidden : largest;
    buffers.memory[i] = ctx.workspace().allocate({size * height * width}, dtype_);
  }
  buffers.height = height;
  buffers.width = width;
  return buffers;
}

void VaeDecoder::forward(Context& ctx, const ConstTensor& latents, const Tensor& out) const {
  const Context::Range range(ctx, "vae_decoder");
  const Workspace::Scope scope(ctx.workspace());
  Buffers image = make_buffers(ctx, latents.size(1), latents.size(2));
  image.channels = config_.latent_channels;
  const int64_t latent_pixels = image.height * image.width;
  transpose(ctx, to_workspace(ctx, latents).reshape({image.channels, latent_pixels}),
            image.image().reshape({latent_pixels, image.channels}));
  const auto apply = [&](const Conv2d& conv) {  // [h, w, in] -> [h, w, out]
    conv(ctx, image.image(), image.view(1, conv.out_channels()));
    std::swap(image.memory[0], image.memory[1]);
    image.channels = conv.out_channels();
  };
  if (post_quant_conv_) apply(*post_quant_conv_);
  apply(conv_in_);
  ctx.trace("conv_in", image.image());
  run_resnet(ctx, mid_resnets_[0], image);
  ctx.trace("mid_block.resnets.0", image.image());
  if (mid_attention_) run_attention(ctx, image);
  run_resnet(ctx, mid_resnets_[1], image);
  ctx.trace("mid_block", image.image());
  for (size_t i = 0; i < up_blocks_.size(); ++i) {
    const Context::Range block(ctx, "up_blocks", static_cast<int64_t>(i));
    for (const Resnet& resnet : up_blocks_[i].resnets) {
      ctx.poll_cancel();
      run_resnet(ctx, resnet, image);
    }
    if (up_blocks_[i].upsampler) run_upsampler(ctx, *up_blocks_[i].upsampler, image);
    if (ctx.is_traced()) ctx.trace(fmt::format("up_blocks.{}", i), image.image());
  }
  conv_norm_out_(ctx, image.image(), image.image());
  apply(conv_out_);
  const int64_t pixels = image.height * image.width;
  const Tensor result = result_for(ctx, out);
  transpose(ctx, image.image().reshape({pixels, kImageChannels}),
            result.reshape({kImageChannels, pixels}));
  copy(ctx, result, out);
}

void VaeDecoder::run_resnet(Context& ctx, const Resnet& resnet, Buffers& image) {
  const int64_t out = resnet.conv1.out_channels();
  const Tensor input = image.image();
  const Tensor normed = image.view(1, image.channels);
  const Tensor hidden = image.view(2, out);
  resnet.norm1(ctx, input, normed);
  resnet.conv1(ctx, normed, hidden);
  resnet.norm2(ctx, hidden, hidden);
  Tensor residual = input;
  if (resnet.conv_shortcut) {
    residual = image.view(1, out);
    (*resnet.conv_shortcut)(ctx, input, residual);
    std::swap(image.memory[0], image.memory[1]);  // the result replaces the shortcut
  }
  resnet.conv2(ctx, hidden, residual, residual);
  image.channels = out;
}

void VaeDecoder::run_attention(Context& ctx, Buffers& image) const {
  const Workspace::Scope scope(ctx.workspace());
  const int64_t channels = image.channels;
  const int64_t tokens = image.height * image.width;
  const Tensor hidden = image.image().reshape({tokens, channels});
  const Tensor normed = image.view(1, channels).reshape({tokens, channels});
  const Tensor attended = image.view(2, channels).reshape({tokens, channels});
  const Tensor qkv = ctx.workspace().allocate({tokens, 3 * channels}, dtype_);
  mid_attention_->group_norm(ctx, hidden, normed);
  mid_attention_->qkv(ctx, normed, qkv);
  const Tensor split = qkv.split_last(3, channels);  // [tokens, q | k | v, channels]
  AttentionOptions options;
  options.scale = 1.0f / std::sqrt(static_cast<float>(channels));
  attention(ctx, split.slice(1, 0, 1), split.slice(1, 1, 2), split.slice(1, 2, 3), options,
            attended.split_last(1, channels));
  mid_attention_->to_out(ctx, attended, hidden,
                         {.activation = Activation::kNone, .gate = {}, .residual = hidden});
}

void VaeDecoder::run_upsampler(Context& ctx, const Conv2d& conv, Buffers& image) {
  const Tensor input = image.image();
  image.height *= 2;
  image.width *= 2;
  conv(ctx, input, image.view(1, image.channels));
  std::swap(image.memory[0], image.memory[1]);
}

}  // namespace flux
