#include <algorithm>
#include <cstring>
#include <vector>

#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/isa.h"
#include "ops/cpu/onednn.h"
#include "ops/cpu/rows.h"
#include "ops/cpu/weight_memory.h"
#include "ops/cpu/winograd.h"

/// A convolution is cut into tiles of one fixed size for each weight, whatever the image and the
/// number of threads. A tile's input is copied with its border, zeros outside the image, so one
/// compiled kernel without padding does all tiles; its sums stay in the cache as f32 until the
/// epilogue stores them.
namespace flux::cpu {
namespace {

constexpr int64_t kTileWidth = 32;
constexpr int64_t kChunkChannels = 128;              // output channels computed together
constexpr int64_t kInputBytes = int64_t{512} << 10;  // of a tile, to stay in the L2 cache

/// Packed weights of one kernel size, in chunks of output channels.
struct WeightSet {
  int64_t in = 0;
  int64_t out = 0;
  int64_t kernel = 0;
  int64_t tile_height = 0;
  bool winograd = false;
  DType stored = DType::kF32;
  DType compute = DType::kF32;
  int64_t chunk_elements = 0;
  int64_t last_chunk_elements = 0;
  Tensor memory;

  int64_t chunks() const { return (out + kChunkChannels - 1) / kChunkChannels; }
  int64_t width(int64_t i) const { return std::min(kChunkChannels, out - i * kChunkChannels); }
  int64_t elements(int64_t i) const {
    return i + 1 == chunks() ? last_chunk_elements : chunk_elements;
  }
  std::byte* address(int64_t i) const {
    return memory.data<std::byte>() + i * chunk_elements * static_cast<int64_t>(size_of(stored));
  }
  ConvolutionShape shape(int64_t channels) const {
    return {compute, tile_height, kTileWidth, in, channels, kernel};
  }
  std::unique_ptr<WeightPacker> packer(int64_t channels) const {
    return winograd ? winograd_weight_packer(shape(channels)) : weight_packer(shape(channels));
  }
  std::shared_ptr<const TileKernel> tile(int64_t channels) const {
    return winograd ? winograd_tile_kernel(shape(channels)) : tile_kernel(shape(channels));
  }
};

int64_t tile_height(int64_t in, int64_t kernel, DType compute) {
  const int64_t row = (kTileWidth + kernel - 1) * in * static_cast<int64_t>(size_of(compute));
  return (8 + kernel - 1) * row <= kInputBytes ? 8 : 4;
}

/// Allocates the set's memory and packs plain(i), the chunk's [channels, in, k, k] in the dtype of
/// computation, into it.
template <typename F>
void pack_set(Context& ctx, WeightSet& set, const F& plain) {
  const auto size = static_cast<int64_t>(size_of(set.compute));
  const int64_t last = set.width(set.chunks() - 1);
  const auto last_packer = set.packer(last);
  set.last_chunk_elements = last_packer->packed_bytes() / size;
  const auto full_packer =
      last < kChunkChannels && set.chunks() > 1 ? set.packer(kChunkChannels) : nullptr;
  set.chunk_elements = full_packer ? full_packer->packed_bytes() / size : set.last_chunk_elements;
  set.memory =
      allocate_weights(((set.chunks() - 1) * set.chunk_elements + set.last_chunk_elements) *
                       static_cast<int64_t>(size_of(set.stored)));
  parallel_for(ctx.threads(), set.chunks(), [&](int64_t i) {
    const bool full = full_packer && i + 1 < set.chunks();
    const WeightPacker& packer = full ? *full_packer : *last_packer;
    const Tensor from = plain(i);
    if (set.compute == set.stored) return packer.pack(from.raw(), set.address(i));
    const Tensor wide = Tensor::allocate({set.elements(i)}, set.compute);
    packer.pack(from.raw(), wide.raw());
    narrow(wide.data<float>(), set.elements(i), reinterpret_cast<BFloat16*>(set.address(i)));
  });
}

/// Doubling an image and then convolving it is, for each of the four pixels that an input pixel
/// becomes, a convolution of the input itself: taps that meet the same input pixel are summed.
/// A kernel of size k has k / 2 + 1 distinct taps along each axis.
struct Taps {
  /// Input pixel of tap t of output pixel 2 i + phase, relative to i.
  static int64_t offset(int64_t phase, int64_t t, int64_t kernel) {
    const int64_t position = phase + t - kernel / 2;
    return position >= 0 ? position / 2 : -((1 - position) / 2);
  }
  static int64_t count(int64_t kernel) { return kernel / 2 + 1; }
};

/// The set of one kernel, or, where taps are summed, the sets of phases (y, x) in their order.
class PackedConv2d final : public PackedWeights {
 public:
  std::vector<WeightSet> sets;
  Tensor bias;  // [out], f32

  int64_t bytes() const override {
    int64_t bytes = bias.bytes();
    for (const WeightSet& set : sets) bytes += set.memory.bytes();
    return bytes;
  }
};

/// [filters, k, k] f32 -> [filters, taps, taps] of a phase.
Tensor sum_taps(const Tensor& from, int64_t phase_y, int64_t phase_x) {
  const int64_t k = from.size(1);
  const int64_t taps = Taps::count(k);
  const Tensor to = Tensor::allocate({from.size(0), taps, taps}, DType::kF32);
  std::memset(to.raw(), 0, static_cast<size_t>(to.bytes()));
  for (int64_t filter = 0; filter < from.size(0); ++filter) {
    const auto* source = row<float>(from, filter);
    auto* target = row<float>(to, filter);
    for (int64_t y = 0; y < k; ++y) {
      const int64_t to_y = Taps::offset(phase_y, y, k) - Taps::offset(phase_y, 0, k);
      for (int64_t x = 0; x < k; ++x) {
        const int64_t to_x = Taps::offset(phase_x, x, k) - Taps::offset(phase_x, 0, k);
        target[to_y * taps + to_x] += source[y * k + x];
      }
    }
  }
  return to;
}

/// One convolution over an image: which pixels its first tap reads and where its results go.
struct Pass {
  const WeightSet* set;
  int64_t first_y;  // input pixel of the first tap of result (0, 0)
  int64_t first_x;
  int64_t in_scale;  // the input counts as doubled: pixel i of it is x[i / in_scale]
  int64_t height;    // results
  int64_t width;
  int64_t out_step;  // result (i, j) is pixel (i out_step + out_y, j out_step + out_x) of out
  int64_t out_y;
  int64_t out_x;
};

/// One call of conv2d. T: activations. C: what products are computed in.
template <typename T, typename C>
class ConvCall {
 public:
  ConvCall(Context& ctx, const Tensor& x, const PackedConv2d& packed, const Tensor& residual,
           const Tensor& out)
      : ctx_(ctx), x_(x), packed_(packed), residual_(residual), out_(out) {}

  void run(std::span<const Pass> passes) {
    const WeightSet& set = *passes[0].set;
    const int64_t side = kTileWidth + set.kernel - 1;
    input_width_ = side;
    kernel_ = set.tile(set.width(0));
    last_kernel_ = set.tile(set.width(set.chunks() - 1));
    scratch_ =
        per_thread_scratch(ctx_, std::max(kernel_->scratch_bytes(), last_kernel_->scratch_bytes()));
    inputs_ = per_thread_scratch(
        ctx_, (set.tile_height + set.kernel - 1) * side * set.in * static_cast<int64_t>(sizeof(C)));
    sums_ = per_thread_scratch(ctx_, set.tile_height * kTileWidth * set.width(0) * 4);
    if (set.stored != set.compute) widen_weights(set);
    const int64_t down = (passes[0].height + set.tile_height - 1) / set.tile_height;
    const int64_t across = (passes[0].width + kTileWidth - 1) / kTileWidth;
    const int64_t tiles = down * across;
    const int64_t in_pass = set.chunks() * tiles;
    parallel_for(ctx_.threads(), static_cast<int64_t>(passes.size()) * in_pass,
                 [&](int64_t task, int thread) {
                   const Pass& pass = passes[static_cast<size_t>(task / in_pass)];
                   const int64_t tile = task % tiles;
                   run_tile(pass, task % in_pass / tiles, tile / across * set.tile_height,
                            tile % across * kTileWidth, thread);
                 });
  }

 private:
  void widen_weights(const WeightSet& set) {
    widened_ = ctx_.workspace().allocate(
        {set.chunks(), std::max(set.chunk_elements, set.last_chunk_elements)}, DType::kF32);
    parallel_for(ctx_.threads(), set.chunks(), [&](int64_t i) {
      widen(reinterpret_cast<const BFloat16*>(set.address(i)), set.elements(i),
            row<float>(widened_, i));
    });
  }

  void run_tile(const Pass& pass, int64_t chunk, int64_t y, int64_t x, int thread) {
    const WeightSet& set = *pass.set;
    auto* input = reinterpret_cast<C*>(row<std::byte>(inputs_, thread));
    for (int64_t i = 0; i < set.tile_height + set.kernel - 1; ++i) {
      copy_input_row(pass, pass.first_y + y + i, pass.first_x + x, input);
      input += input_width_ * set.in;
    }
    const void* weights = set.address(chunk);
    if (widened_.defined()) weights = row<float>(widened_, chunk);
    auto* sums = reinterpret_cast<float*>(row<std::byte>(sums_, thread));
    const TileKernel& kernel = chunk + 1 == set.chunks() ? *last_kernel_ : *kernel_;
    kernel.run(row<std::byte>(inputs_, thread), weights, sums, row<std::byte>(scratch_, thread));
    store_sums(pass, chunk, y, x, sums);
  }

  /// Row `y` of the input from column `first_x` on, zeros outside the image.
  void copy_input_row(const Pass& pass, int64_t y, int64_t first_x, C* to) const {
    const int64_t in = pass.set->in;
    const int64_t height = x_.size(0) * pass.in_scale;
    const int64_t width = x_.size(1) * pass.in_scale;
    const int64_t begin = std::clamp<int64_t>(-first_x, 0, input_width_);
    const int64_t end = std::clamp(width - first_x, begin, input_width_);
    if (y < 0 || y >= height || begin == end) {
      return fill_zero(to, input_width_ * in);
    }
    const T* from = row<T>(x_, y / pass.in_scale);
    fill_zero(to, begin * in);
    if (pass.in_scale == 1) {
      convert(from + (first_x + begin) * in, (end - begin) * in, to + begin * in);
    } else {
      for (int64_t i = begin; i < end; ++i) {
        convert(from + (first_x + i) / pass.in_scale * in, in, to + i * in);
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

  void store_sums(const Pass& pass, int64_t chunk, int64_t y, int64_t x, const float* sums) const {
    const int64_t columns = pass.set->width(chunk);
    const int64_t channel = chunk * kChunkChannels;
    TileEpilogue<T> tile{};
    tile.rows = std::min(kTileWidth, pass.width - x);
    tile.columns = columns;
    tile.bias = packed_.bias.template data<float>() + channel;
    tile.out_stride = pass.out_step * pass.set->out;
    tile.residual_stride = tile.out_stride;
    const int64_t rows = std::min(pass.set->tile_height, pass.height - y);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t pixel =
          ((y + i) * pass.out_step + pass.out_y) * out_.size(1) + x * pass.out_step + pass.out_x;
      const int64_t first = pixel * pass.set->out + channel;
      tile.sums = sums + i * kTileWidth * columns;
      tile.out = out_.data<T>() + first;
      if (residual_.defined()) tile.residual = residual_.data<T>() + first;
      kernels().rows<T>().store_tile(tile);
    }
  }

  Context& ctx_;
  const Tensor& x_;
  const PackedConv2d& packed_;
  const Tensor& residual_;
  const Tensor& out_;
  int64_t input_width_ = 0;
  std::shared_ptr<const TileKernel> kernel_;
  std::shared_ptr<const TileKernel> last_kernel_;  // of the last chunk of output channels
  Tensor scratch_;
  Tensor inputs_;
  Tensor sums_;
  Tensor widened_;
};

template <typename T, typename C>
void run_conv(Context& ctx, const Tensor& x, const Conv2dWeights& weights, const Tensor& residual,
              const Tensor& out) {
  const auto& packed = static_cast<const PackedConv2d&>(*weights.packed);
  const int64_t border = weights.kernel / 2;
  ConvCall<T, C> call(ctx, x, packed, residual, out);
  if (packed.sets.size() == 1) {
    const int64_t scale = weights.upsample ? 2 : 1;
    const Pass pass = {packed.sets.data(), -border, -border, scale, out.size(0),
                       out.size(1),        1,       0,       0};
    return call.run({&pass, 1});
  }
  Pass passes[4];
  for (int64_t phase = 0; phase < 4; ++phase) {
    const int64_t phase_y = phase / 2;
    const int64_t phase_x = phase % 2;
    passes[phase] = {&packed.sets[static_cast<size_t>(phase)],
                     Taps::offset(phase_y, 0, weights.kernel),
                     Taps::offset(phase_x, 0, weights.kernel),
                     1,
                     x.size(0),
                     x.size(1),
                     2,
                     phase_y,
                     phase_x};
  }
  call.run(passes);
}

}  // namespace

std::shared_ptr<const PackedWeights> CpuBackend::pack_conv2d(Context& ctx, const Tensor& weight,
                                                             const Tensor& bias, DType dtype,
                                                             bool upsample) {
  auto packed = std::make_shared<PackedConv2d>();
  packed->bias = to_dtype(bias, DType::kF32);
  WeightSet set;
  set.out = weight.size(0);
  set.in = weight.size(1);
  set.kernel = weight.size(2);
  set.stored = dtype;
  set.compute = bf16_path() == Bf16Path::kNative ? dtype : DType::kF32;
  // Both ways of saving products round weights once more, which bf16 cannot bear.
  const bool exact = dtype == DType::kF32;
  const auto chunk_of = [&](int64_t i) {
    const int64_t begin = i * kChunkChannels;
    const Tensor part = weight.slice(0, begin, begin + set.width(i));
    return part.dtype() == set.compute ? part : to_dtype(part, set.compute);
  };
  if (upsample && exact) {
    const int64_t kernel = set.kernel;
    set.kernel = Taps::count(kernel);
    set.tile_height = tile_height(set.in, set.kernel, set.compute);
    for (int64_t phase = 0; phase < 4; ++phase) {
      pack_set(ctx, packed->sets.emplace_back(set), [&](int64_t i) {
        const Tensor filters = chunk_of(i).reshape({set.width(i) * set.in, kernel, kernel});
        return sum_taps(filters, phase / 2, phase % 2);
      });
    }
    return packed;
  }
  set.winograd = exact && winograd_suits(set.shape(set.width(set.chunks() - 1)));
  set.tile_height =
      set.winograd ? winograd_tile_height() : tile_height(set.in, set.kernel, set.compute);
  pack_set(ctx, packed->sets.emplace_back(set), chunk_of);
  return packed;
}

void CpuBackend::conv2d(Context& ctx, const Tensor& x, const Conv2dWeights& weights,
                        const Tensor& residual, const Tensor& out) {
  const Workspace::Scope scope(ctx.workspace());
  if (out.dtype() == DType::kF32) return run_conv<float, float>(ctx, x, weights, residual, out);
  const auto& packed = static_cast<const PackedConv2d&>(*weights.packed);
  if (packed.sets[0].compute == DType::kBF16) {
    return run_conv<BFloat16, BFloat16>(ctx, x, weights, residual, out);
  }
  run_conv<BFloat16, float>(ctx, x, weights, residual, out);
}

}  // namespace flux::cpu
