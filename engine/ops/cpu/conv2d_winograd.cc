#include "ops/cpu/conv2d_weights.h"
#include "ops/cpu/isa.h"
#include "ops/cpu/rows.h"
#include "ops/cpu/weight_memory.h"
#include "support/integer.h"

namespace flux::cpu {
namespace {

/// Fewest input channels for which the scheme saves more than its transforms cost.
constexpr int64_t kLeastInputs = 16;

class WinogradTileKernel final : public TileKernel {
 public:
  WinogradTileKernel(const WinogradKernels& kernels, int64_t in, int64_t out, bool upsampled)
      : kernels_(kernels), in_(in), out_(out), upsampled_(upsampled) {}

  int64_t scratch_bytes() const override {
    return kernels_.scratch_floats(in_) * static_cast<int64_t>(sizeof(float));
  }

  void run(const void* x, const void* weights, float* sums, void* scratch) const override {
    kernels_.run({static_cast<const float*>(x), static_cast<const float*>(weights), in_, out_,
                  upsampled_, sums, static_cast<float*>(scratch)});
  }

 private:
  const WinogradKernels& kernels_;
  int64_t in_;
  int64_t out_;
  bool upsampled_;
};

class WinogradConv2d final : public PackedConv2d {
 public:
  WinogradConv2d(Context& ctx, const ConstTensor& weight, DType dtype, bool upsampled)
      : kernels_(kernels().winograd), upsampled_(upsampled) {
    out = weight.size(0);
    in = weight.size(1);
    kernel = weight.size(2);
    tile_height = kernels_.tile_height;
    stored = dtype;
    const auto size = static_cast<int64_t>(size_of(dtype));
    memory = allocate_weights(kernels_.tap_elements(in, out) * size);
    const int64_t chunk_bytes = kernels_.tap_elements(in, kChunkChannels) * size;
    parallel_for(ctx.threads(), chunks(), [&](int64_t i) {
      const int64_t begin = i * kChunkChannels;
      const ConstTensor part = weight.slice(0, begin, begin + width(i));
      const ConstTensor plain = part.dtype() == dtype ? part : ConstTensor(to_dtype(part, dtype));
      std::byte* to = memory.data<std::byte>() + i * chunk_bytes;
      if (dtype == DType::kBF16) {
        kernels_.pack_bf16(plain.data<BFloat16>(), in, width(i), reinterpret_cast<BFloat16*>(to));
      } else {
        kernels_.pack_f32(plain.data<float>(), in, width(i), reinterpret_cast<float*>(to));
      }
    });
  }

  std::shared_ptr<const TileKernel> tile(int64_t channels) const override {
    return std::make_shared<WinogradTileKernel>(kernels_, in, channels, upsampled_);
  }

  std::vector<const void*> expand(Context& ctx) const override {
    const int64_t panels = ceil_div(out, kernels_.columns);
    const int64_t taps = kernels_.tap_elements(in, kernels_.columns);
    const Tensor expanded =
        ctx.workspace().allocate({panels, kernels_.panel_floats(in)}, DType::kF32);
    parallel_for(ctx.threads(), panels, [&](int64_t i) {
      float* to = row<float>(expanded, i);
      if (stored == DType::kBF16) {
        const auto* from = reinterpret_cast<const BFloat16*>(memory.raw()) + i * taps;
        kernels_.transform_bf16(from, in, to);
      } else {
        const auto* from = reinterpret_cast<const float*>(memory.raw()) + i * taps;
        kernels_.transform_f32(from, in, to);
      }
    });
    std::vector<const void*> addresses;
    for (int64_t i = 0; i < chunks(); ++i) {
      addresses.push_back(row<float>(expanded, i * (kChunkChannels / kernels_.columns)));
    }
    return addresses;
  }

 private:
  const WinogradKernels& kernels_;  // those in use at construction: the layout fits no others
  bool upsampled_;
};

}  // namespace

std::shared_ptr<PackedConv2d> pack_winograd_conv2d(Context& ctx, const ConstTensor& weight,
                                                   DType dtype, ConvSize size) {
  const bool suits = weight.size(1) >= kLeastInputs && weight.size(2) == 3;
  if (!suits || size == ConvSize::kHalved) return nullptr;
  return std::make_shared<WinogradConv2d>(ctx, weight, dtype, size == ConvSize::kDoubled);
}

}  // namespace flux::cpu
