#include "models/vae/vae_blocks.h"

#include <cmath>
#include <utility>

namespace flux {

VaeImage::VaeImage(Context& ctx, DType dtype, int64_t largest, int64_t hidden)
    : memory{ctx.workspace().allocate({largest}, dtype), ctx.workspace().allocate({largest}, dtype),
             ctx.workspace().allocate({hidden}, dtype)} {}

void VaeImage::apply(Context& ctx, const Conv2d& conv) {
  const Tensor input = image();
  height = conv_side(conv.size(), height);
  width = conv_side(conv.size(), width);
  channels = conv.out_channels();
  conv(ctx, input, view(1, channels));
  std::swap(memory[0], memory[1]);
}

VaeResnet::VaeResnet(const Loader& load, const VaeConfig& config, int64_t in, int64_t out)
    : norm1_(load / "norm1", in, config.norm_num_groups, Activation::kSilu),
      conv1_(load / "conv1", in, out, 3),
      norm2_(load / "norm2", out, config.norm_num_groups, Activation::kSilu),
      conv2_(load / "conv2", out, out, 3) {
  if (in != out) conv_shortcut_.emplace(load / "conv_shortcut", in, out, 1);
}

int64_t VaeResnet::bytes() const {
  return conv1_.bytes() + conv2_.bytes() + (conv_shortcut_ ? conv_shortcut_->bytes() : 0);
}

void VaeResnet::operator()(Context& ctx, VaeImage& image) const {
  const int64_t out = conv1_.out_channels();
  const Tensor input = image.image();
  const Tensor normed = image.view(1, image.channels);
  const Tensor hidden = image.view(2, out);
  norm1_(ctx, input, normed);
  conv1_(ctx, normed, hidden);
  norm2_(ctx, hidden, hidden);
  Tensor residual = input;
  if (conv_shortcut_) {
    residual = image.view(1, out);
    (*conv_shortcut_)(ctx, input, residual);
    std::swap(image.memory[0], image.memory[1]);  // the result replaces the shortcut
  }
  conv2_(ctx, hidden, residual, residual);
  image.channels = out;
}

VaeAttention::VaeAttention(const Loader& load, const VaeConfig& config, int64_t channels)
    : group_norm_(load / "group_norm", channels, config.norm_num_groups, Activation::kNone) {
  // Old checkpoints carry the names of diffusers' first attention class.
  const bool old = load.weights().contains("query.weight");
  const std::vector<std::string_view> names =
      old ? std::vector<std::string_view>{"query", "key", "value"}
          : std::vector<std::string_view>{"to_q", "to_k", "to_v"};
  qkv_ = Linear(load, names, channels, channels);
  to_out_ = Linear(old ? load / "proj_attn" : load / "to_out" / "0", channels, channels);
}

void VaeAttention::operator()(Context& ctx, VaeImage& image) const {
  const Workspace::Scope scope(ctx.workspace());
  const int64_t channels = image.channels;
  const Tensor hidden = image.rows();
  const Tensor normed = image.view(1, channels).reshape(hidden.shape());
  const Tensor attended = image.view(2, channels).reshape(hidden.shape());
  const Tensor qkv = ctx.workspace().allocate({hidden.size(0), 3 * channels}, hidden.dtype());
  group_norm_(ctx, hidden, normed);
  qkv_(ctx, normed, qkv);
  const Tensor split = qkv.split_last(3, channels);  // [tokens, q | k | v, channels]
  AttentionOptions options;
  options.scale = 1.0f / std::sqrt(static_cast<float>(channels));
  attention(ctx, split.slice(1, 0, 1), split.slice(1, 1, 2), split.slice(1, 2, 3), options,
            attended.split_last(1, channels));
  to_out_(ctx, attended, hidden, {.activation = Activation::kNone, .gate = {}, .residual = hidden});
}

VaeMidBlock::VaeMidBlock(const Loader& load, const VaeConfig& config, int64_t channels) {
  for (int64_t i = 0; i < 2; ++i) {
    resnets_[i] = VaeResnet(load / "resnets" / i, config, channels, channels);
  }
  if (config.mid_block_add_attention) {
    attention_.emplace(load / "attentions" / "0", config, channels);
  }
}

int64_t VaeMidBlock::bytes() const {
  return resnets_[0].bytes() + resnets_[1].bytes() + (attention_ ? attention_->bytes() : 0);
}

void VaeMidBlock::operator()(Context& ctx, VaeImage& image) const {
  resnets_[0](ctx, image);
  ctx.trace("mid_block.resnets.0", image.image());
  if (attention_) (*attention_)(ctx, image);
  resnets_[1](ctx, image);
  ctx.trace("mid_block", image.image());
}

void VaeLevel::operator()(Context& ctx, VaeImage& image) const {
  for (const VaeResnet& resnet : resnets) {
    ctx.poll_cancel();
    resnet(ctx, image);
  }
  if (resize) image.apply(ctx, *resize);
}

int64_t VaeLevel::bytes() const {
  int64_t sum = resize ? resize->bytes() : 0;
  for (const VaeResnet& resnet : resnets) sum += resnet.bytes();
  return sum;
}

}  // namespace flux
