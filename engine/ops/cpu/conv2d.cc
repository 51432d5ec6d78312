#include <algorithm>
#include <cstring>

#include "ops/cpu/conv2d_weights.h"
#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/isa.h"
#include "ops/cpu/rows.h"
#include "ops/cpu/weight_memory.h"
#include "support/integer.h"

/// A convolution is cut into tiles of one fixed size for each weight, whatever the image and the
/// number of threads. A tile's input is copied with its border, zeros outside the image, so one
/// kernel without padding does all tiles; its sums stay in the cache as f32 until the epilogue
/// stores them.
namespace flux::cpu {
namespace {

/// One call of conv2d. T is the type of activations, C the type that products are computed in.
template <typename T, typename C>
class ConvCall {
 public:
  /// An input that is to be doubled is so on the fly.
  ConvCall(Context& ctx, const ConstTensor& x, const PackedConv2d& packed, ConvSize size,
           const ConstTensor& residual, const Tensor& out)
      : ctx_(ctx),
        x_(x),
        packed_(packed),
        scale_(size == ConvSize::kDoubled ? 2 : 1),
        border_(size == ConvSize::kHalved ? 0 : packed.kernel / 2),
        residual_(residual),
        out_(out),
        input_height_(packed.input_side(packed.tile_height)),
        input_width_(packed.input_side(kConvTileWidth)),
        weights_(packed.expand(ctx)),
        kernel_(packed.tile(packed.width(0))),
        last_kernel_(packed.tile(packed.width(packed.chunks() - 1))),
        scratch_(per_thread_scratch(
            ctx, std::max(kernel_->scratch_bytes(), last_kernel_->scratch_bytes()))),
        inputs_(per_thread_scratch(
            ctx, input_height_ * input_width_ * packed.in * static_cast<int64_t>(sizeof(C)))),
        sums_(per_thread_scratch(ctx, packed.tile_height * kConvTileWidth * packed.width(0) * 4)) {}

  void run() {
    const int64_t down = ceil_div(out_.size(0), packed_.tile_height);
    const int64_t across = ceil_div(out_.size(1), kConvTileWidth);
    const int64_t tiles = down * across;
    parallel_for(ctx_.threads(), packed_.chunks() * tiles, [&](int64_t task, int thread) {
      const int64_t tile = task % tiles;
      run_tile(task / tiles, tile / across * packed_.tile_height, tile % across * kConvTileWidth,
               thread);
    });
  }

 private:
  void run_tile(int64_t chunk, int64_t y, int64_t x, int thread) {
    auto* input = reinterpret_cast<C*>(row<std::byte>(inputs_, thread));
    for (int64_t i = 0; i < input_height_; ++i) {
      copy_input_row(y * packed_.stride + i - border_, x * packed_.stride - border_,
                     input + i * input_width_ * packed_.in);
    }
    auto* sums = reinterpret_cast<float*>(row<std::byte>(sums_, thread));
    const TileKernel& kernel = chunk + 1 == packed_.chunks() ? *last_kernel_ : *kernel_;
    kernel.run(input, weights_[static_cast<size_t>(chunk)], sums, row<std::byte>(scratch_, thread));
    store_sums(chunk, y, x, sums);
  }

  /// Copies row `y` of the input from column `first_x` on, zeros outside the image.
  void copy_input_row(int64_t y, int64_t first_x, C* to) const {
    const int64_t in = packed_.in;
    const int64_t begin = std::clamp<int64_t>(-first_x, 0, input_width_);
    const int64_t end = std::clamp(x_.size(1) * scale_ - first_x, begin, input_width_);
    if (y < 0 || y >= x_.size(0) * scale_ || begin == end) {
      return fill_zero(to, input_width_ * in);
    }
    const T* from = row<T>(x_, y / scale_);
    fill_zero(to, begin * in);
    if (scale_ == 1) {
      convert(from + (first_x + begin) * in, (end - begin) * in, to + begin * in);
    } else {
      for (int64_t i = begin; i < end; ++i) {
        convert(from + (first_x + i) / scale_ * in, in, to + i * in);
      }
    }
    fill_zero(to + end * in, (input_width_ - end) * in);
  }

  static void fill_zero(C* to, int64_t n) {
    std::memset(static_cast<void*>(to), 0, static_cast<size_t>(n) * sizeof(C));
  }

  static void convert(const T* from, int64_t n, C* to) {
    if constexpr (std::is_same_v<T, C>) {
      std::memcpy(static_cast<void*>(to), from, static_cast<size_t>(n) * sizeof(T));
    } else {
      widen(from, n, to);
    }
  }

  void store_sums(int64_t chunk, int64_t y, int64_t x, const float* sums) const {
    const int64_t columns = packed_.width(chunk);
    const int64_t channel = chunk * PackedConv2d::kChunkChannels;
    TileEpilogue<T> tile{};
    tile.rows = std::min(kConvTileWidth, out_.size(1) - x);
    tile.columns = columns;
    tile.bias = packed_.bias.template data<float>() + channel;
    tile.out_stride = packed_.out;
    tile.residual_stride = packed_.out;
    const int64_t rows = std::min(packed_.tile_height, out_.size(0) - y);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t first = ((y + i) * out_.size(1) + x) * packed_.out + channel;
      tile.sums = sums + i * kConvTileWidth * columns;
      tile.sums_stride = columns;
      tile.out = out_.data<T>() + first;
      if (residual_.defined()) tile.residual = residual_.data<T>() + first;
      kernels().rows<T>().store_tile(tile);
    }
  }

  Context& ctx_;
  const ConstTensor& x_;
  const PackedConv2d& packed_;
  int64_t scale_;
  int64_t border_;  // of zeros before the first row and column
  const ConstTensor& residual_;
  const Tensor& out_;
  int64_t input_height_;
  int64_t input_width_;
  std::vector<const void*> weights_;  // one for each chunk
  std::shared_ptr<const TileKernel> kernel_;
  std::shared_ptr<const TileKernel> last_kernel_;  // of the last chunk of output channels
  Tensor scratch_;
  Tensor inputs_;
  Tensor sums_;
};

}  // namespace

std::shared_ptr<const PackedWeights> CpuBackend::pack_conv2d(Context& ctx,
                                                             const ConstTensor& weight,
                                                             const ConstTensor& bias, DType dtype,
                                                             ConvSize size) {
  std::shared_ptr<PackedConv2d> packed = pack_winograd_conv2d(ctx, weight, dtype, size);
  if (!packed) packed = pack_direct_conv2d(ctx, weight, dtype, size);
  packed->bias = to_dtype(bias, DType::kF32);
  return packed;
}

void CpuBackend::conv2d(Context& ctx, const ConstTensor& x, const Conv2dWeights& weights,
                        const ConstTensor& residual, const Tensor& out) {
  const auto& packed = static_cast<const PackedConv2d&>(*weights.packed);
  const Workspace::Scope scope(ctx.workspace());
  if (out.dtype() == DType::kF32) {
    ConvCall<float, float>(ctx, x, packed, weights.size, residual, out).run();
  } else if (packed.compute == DType::kBF16) {
    ConvCall<BFloat16, BFloat16>(ctx, x, packed, weights.size, residual, out).run();
  } else {
    ConvCall<BFloat16, float>(ctx, x, packed, weights.size, residual, out).run();
  }
}

}  // namespace flux::cpu
