#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "ops/cpu/isa.h"
#include "ops/cpu/onednn.h"
#include "ops/cpu/packed_linear.h"
#include "ops/cpu/rows.h"
#include "ops/cpu/weight_memory.h"
#include "support/integer.h"

/// Linear layers in bf16, by oneDNN. A product is cut into tiles of kTileRows rows by one chunk of
/// columns, whatever the number of threads. A tile's sums stay in the cache as f32 until the
/// epilogue stores them.
namespace flux::cpu {
namespace {

constexpr int64_t kTileRows = 128;

class OneDnnLinear final : public PackedLinear {
 public:
  int64_t chunk = 0;        // columns packed and computed together
  int64_t chunk_bytes = 0;  // of a packed chunk; the last one may be smaller

  void run(Context& ctx, const ConstTensor& x, const Epilogue& epilogue,
           std::span<const TermSum> terms, const Tensor& out) const override;
  int64_t chunks() const { return ceil_div(columns, chunk); }
  int64_t width(int64_t i) const { return std::min(chunk, columns - i * chunk); }
  std::byte* address(int64_t i) const { return memory.data<std::byte>() + i * chunk_bytes; }
};

/// Narrow chunks give narrow layers enough tiles for many threads.
int64_t chunk_columns(int64_t columns) { return columns <= 1024 ? 128 : 256; }

struct ChunkPackers {
  std::unique_ptr<WeightPacker> full;
  std::unique_ptr<WeightPacker> last;

  const WeightPacker& of(const OneDnnLinear& packed, int64_t i) const {
    return packed.width(i) == packed.chunk ? *full : *last;
  }
};

ChunkPackers lay_out(OneDnnLinear& packed, const WeightMemory& memory) {
  const int64_t rest = packed.columns % packed.chunk;
  ChunkPackers packers;
  int64_t last_bytes = 0;
  if (packed.columns >= packed.chunk) {
    packers.full = weight_packer(ProductShape{0, packed.depth, packed.chunk});
    packed.chunk_bytes = packers.full->packed_bytes();
    last_bytes = packed.chunk_bytes;
  }
  if (rest != 0) {
    packers.last = weight_packer(ProductShape{0, packed.depth, rest});
    last_bytes = packers.last->packed_bytes();
  }
  packed.memory = memory((packed.chunks() - 1) * packed.chunk_bytes + last_bytes);
  return packers;
}

void pack_chunk(const OneDnnLinear& packed, const WeightPacker& packer,
                std::span<const StoredTensor> weights, int64_t i, Tensor& buffer) {
  const int64_t begin = i * packed.chunk;
  packer.pack(gather_rows(weights, begin, begin + packed.width(i), DType::kBF16, buffer),
              packed.address(i));
}

/// The rows of x contiguously: x itself if it is contiguous already.
ConstTensor contiguous_rows(Context& ctx, const ConstTensor& x) {
  if (x.is_contiguous()) return x;
  const Tensor copy = ctx.workspace().allocate(x.shape(), x.dtype());
  for_row_tiles(ctx, x.size(0), x.size(1), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const ConstTensor from = x[i];
      std::memcpy(copy[i].raw(), from.raw(), static_cast<size_t>(from.bytes()));
    }
  });
  return copy;
}

/// One call of linear, computed in tiles. oneDNN leaves a few rows to another kernel than many
/// where the processor has AMX, and the two add up in different orders. Rows of zeros are then
/// added to the last tile until its kernel is that of whole tiles: the bits of a row do not depend
/// on how many others there are.
class OneDnnLinearCall {
 public:
  OneDnnLinearCall(Context& ctx, const ConstTensor& x, const OneDnnLinear& packed,
                   const Epilogue& epilogue, std::span<const TermSum> terms, const Tensor& out)
      : ctx_(ctx),
        packed_(packed),
        epilogue_(epilogue),
        terms_(products_of<BFloat16>(terms)),
        out_(out),
        rows_(out.size(0)),
        x_(contiguous_rows(ctx, x)) {
    if (rows_ >= kTileRows) prepare(false, kTileRows);
    const int64_t rest_rows = rows_ % kTileRows;
    int64_t computed_rows = rest_rows;
    if (rest_rows != 0) {
      computed_rows = rows_that_add_like_a_tile(rest_rows);
      prepare(true, computed_rows);
      last_x_ = x_.slice(0, rows_ - rest_rows, rows_);
      if (computed_rows != rest_rows) last_x_ = with_zeros(last_x_, computed_rows);
    }
    scratch_ = per_thread_scratch(ctx, scratch_bytes_);
    const int64_t most_rows = rows_ >= kTileRows ? kTileRows : computed_rows;
    tiles_ = per_thread_scratch(ctx, most_rows * packed.chunk * 4);
  }

  /// Chunk by chunk, all rows of each: every weight is read from memory once.
  void run() {
    const int64_t row_tiles = ceil_div(rows_, kTileRows);
    // Reading a weight takes as long as some 16 multiplications with it.
    const int threads = worthwhile_threads(
        ctx_.threads(), packed_.depth * packed_.columns * std::max<int64_t>(rows_, 16));
    parallel_for(threads, packed_.chunks() * row_tiles, [&](int64_t task, int thread) {
      run_tile(task / row_tiles, task % row_tiles * kTileRows, thread);
    });
  }

 private:
  /// The kernel of so many rows and a chunk, or the last one; null where there is no such chunk.
  std::shared_ptr<const TileKernel> kernel_of(int64_t rows, bool last_columns) const {
    const int64_t rest = packed_.columns % packed_.chunk;
    if (last_columns ? rest == 0 : packed_.columns < packed_.chunk) return nullptr;
    return tile_kernel(ProductShape{rows, packed_.depth, last_columns ? rest : packed_.chunk});
  }

  void prepare(bool last_rows, int64_t rows) {
    for (const bool last_columns : {false, true}) {
      auto kernel = kernel_of(rows, last_columns);
      if (kernel) scratch_bytes_ = std::max(scratch_bytes_, kernel->scratch_bytes());
      kernels_[last_rows][last_columns] = std::move(kernel);
    }
  }

  int64_t rows_that_add_like_a_tile(int64_t rows) const {
    const auto alike = [&](int64_t count) {
      return std::ranges::all_of(std::array{false, true}, [&](bool last_columns) {
        const auto kernel = kernel_of(count, last_columns);
        return !kernel ||
               kernel->implementation() == kernel_of(kTileRows, last_columns)->implementation();
      });
    };
    for (int64_t count = rows; count < kTileRows; count = round_up(count + 1, 16)) {
      if (alike(count)) return count;
    }
    return kTileRows;
  }

  ConstTensor with_zeros(const ConstTensor& x, int64_t rows) const {
    const Tensor padded = ctx_.workspace().allocate({rows, x.size(1)}, x.dtype());
    const auto bytes = static_cast<size_t>(x.bytes());
    std::memcpy(padded.raw(), x.raw(), bytes);
    std::memset(padded.data<std::byte>() + bytes, 0, static_cast<size_t>(padded.bytes()) - bytes);
    return padded;
  }

  void run_tile(int64_t chunk, int64_t first_row, int thread) {
    const int64_t rows = std::min(kTileRows, rows_ - first_row);
    const int64_t columns = packed_.width(chunk);
    auto* sums = reinterpret_cast<float*>(row<std::byte>(tiles_, thread));
    const bool is_last = rows != kTileRows;
    kernels_[is_last][columns != packed_.chunk]->run(
        is_last ? last_x_.raw() : x_.slice(0, first_row, first_row + rows).raw(),
        packed_.address(chunk), sums, row<std::byte>(scratch_, thread));

    auto tile =
        tile_epilogue<BFloat16>(packed_, epilogue_, terms_, out_, first_row, chunk * packed_.chunk);
    tile.sums = sums;
    tile.sums_stride = columns;
    tile.rows = rows;
    tile.columns = columns;
    kernels().rows<BFloat16>().store_tile(tile);
  }

  Context& ctx_;
  const OneDnnLinear& packed_;
  const Epilogue& epilogue_;
  std::vector<TermProduct<BFloat16>> terms_;
  const Tensor& out_;
  int64_t rows_;
  ConstTensor x_;
  ConstTensor last_x_;  // of the last tile, where it is no whole one
  std::array<std::array<std::shared_ptr<const TileKernel>, 2>, 2> kernels_;  // [rest][rest]
  int64_t scratch_bytes_ = 0;
  Tensor scratch_;
  Tensor tiles_;
};

}  // namespace

void OneDnnLinear::run(Context& ctx, const ConstTensor& x, const Epilogue& epilogue,
                       std::span<const TermSum> terms, const Tensor& out) const {
  OneDnnLinearCall(ctx, x, *this, epilogue, terms, out).run();
}

std::shared_ptr<PackedLinear> pack_onednn_linear(Context& ctx,
                                                 std::span<const StoredTensor> weights,
                                                 const WeightMemory& memory) {
  auto packed = std::make_shared<OneDnnLinear>();
  packed->depth = weights[0].shape[1];
  for (const StoredTensor& weight : weights) packed->columns += weight.shape[0];
  packed->chunk = chunk_columns(packed->columns);
  const ChunkPackers packers = lay_out(*packed, memory);
  std::vector<Tensor> buffers(static_cast<size_t>(ctx.threads()));
  parallel_for(ctx.threads(), packed->chunks(), [&](int64_t i, int thread) {
    pack_chunk(*packed, packers.of(*packed, i), weights, i, buffers[static_cast<size_t>(thread)]);
  });
  return packed;
}

}  // namespace flux::cpu
