#include "ops/cpu/conv2d_weights.h"
#include "ops/cpu/onednn.h"
#include "ops/cpu/rows.h"
#include "ops/cpu/weight_memory.h"

namespace flux::cpu {
namespace {

/// Limit for a tile's input, so that it stays in the L2 cache.
constexpr int64_t kInputBytes = int64_t{512} << 10;

/// Convolution whose tiles oneDNN computes.
class DirectConv2d final : public PackedConv2d {
 public:
  DirectConv2d(Context& ctx, const ConstTensor& weight, DType dtype, ConvSize size) {
    out = weight.size(0);
    in = weight.size(1);
    kernel = weight.size(2);
    stride = size == ConvSize::kHalved ? 2 : 1;
    stored = dtype;
    compute = bf16_path() == Bf16Path::kNative ? dtype : DType::kF32;
    const int64_t row = input_side(kConvTileWidth) * in * static_cast<int64_t>(size_of(compute));
    tile_height = input_side(8) * row <= kInputBytes ? 8 : 4;
    pack(ctx, weight);
  }

  std::shared_ptr<const TileKernel> tile(int64_t channels) const override {
    return tile_kernel(shape(channels));
  }

  std::vector<const void*> expand(Context& ctx) const override {
    std::vector<const void*> addresses;
    for (int64_t i = 0; i < chunks(); ++i) addresses.push_back(address(i));
    if (stored == compute) return addresses;
    const Tensor wide = ctx.workspace().allocate(
        {chunks(), std::max(chunk_elements_, last_chunk_elements_)}, DType::kF32);
    parallel_for(ctx.threads(), chunks(), [&](int64_t i) {
      widen(reinterpret_cast<const BFloat16*>(address(i)), elements(i), row<float>(wide, i));
      addresses[static_cast<size_t>(i)] = row<float>(wide, i);
    });
    return addresses;
  }

 private:
  ConvolutionShape shape(int64_t channels) const {
    return {compute, tile_height, kConvTileWidth, in, channels, kernel, stride};
  }
  int64_t elements(int64_t i) const {
    return i + 1 == chunks() ? last_chunk_elements_ : chunk_elements_;
  }
  std::byte* address(int64_t i) const {
    return memory.data<std::byte>() + i * chunk_elements_ * static_cast<int64_t>(size_of(stored));
  }

  void pack(Context& ctx, const ConstTensor& weight) {
    const auto size = static_cast<int64_t>(size_of(compute));
    const int64_t last = width(chunks() - 1);
    const auto last_packer = weight_packer(shape(last));
    last_chunk_elements_ = last_packer->packed_bytes() / size;
    const auto full_packer =
        last < kChunkChannels && chunks() > 1 ? weight_packer(shape(kChunkChannels)) : nullptr;
    chunk_elements_ = full_packer ? full_packer->packed_bytes() / size : last_chunk_elements_;
    memory = allocate_weights(((chunks() - 1) * chunk_elements_ + last_chunk_elements_) *
                              static_cast<int64_t>(size_of(stored)));
    parallel_for(ctx.threads(), chunks(), [&](int64_t i) {
      const bool full = full_packer && i + 1 < chunks();
      const WeightPacker& packer = full ? *full_packer : *last_packer;
      const int64_t begin = i * kChunkChannels;
      const ConstTensor part = weight.slice(0, begin, begin + width(i));
      const ConstTensor plain =
          part.dtype() == compute ? part : ConstTensor(to_dtype(part, compute));
      if (compute == stored) return packer.pack(plain.raw(), address(i));
      const Tensor wide = Tensor::allocate({elements(i)}, compute);
      packer.pack(plain.raw(), wide.raw());
      narrow(wide.data<float>(), elements(i), reinterpret_cast<BFloat16*>(address(i)));
    });
  }

  int64_t chunk_elements_ = 0;  // of a packed chunk; the last one may have fewer
  int64_t last_chunk_elements_ = 0;
};

}  // namespace

std::shared_ptr<PackedConv2d> pack_direct_conv2d(Context& ctx, const ConstTensor& weight,
                                                 DType dtype, ConvSize size) {
  return std::make_shared<DirectConv2d>(ctx, weight, dtype, size);
}

}  // namespace flux::cpu
