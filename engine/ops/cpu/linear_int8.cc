#include <algorithm>

#include "ops/cpu/isa.h"
#include "ops/cpu/packed_linear.h"
#include "ops/cpu/rows.h"
#include "ops/cpu/weight_memory.h"
#include "support/integer.h"

/// Products of encoded weights as dot products of int8. A panel of columns is unpacked where it is
/// used, a slice of its depth at a time, into a buffer that stays in the L1 cache while all rows
/// pass; so weights need no memory beside their stored bytes. Rows are quantised once for all
/// panels. Sums depend on the depth alone: not on other rows, nor on threads.
namespace flux::cpu {
namespace {

/// Rows that are quantised together, a multiple of kInt8Rows: their sums stay in the L2 cache.
constexpr int64_t kBlockRows = 1536;

/// The stored rows that become the columns of a panel; the last one stands in for those past it.
struct PanelColumns {
  Encoding encodings[kInt8Columns];
  const uint8_t* rows[kInt8Columns];

  PanelColumns(std::span<const StoredTensor> weights, int64_t begin) {
    for (int64_t i = 0; i < kInt8Columns; ++i) {
      int64_t at = begin + i;
      size_t weight = 0;
      while (weight + 1 < weights.size() && at >= weights[weight].shape[0]) {
        at -= weights[weight++].shape[0];
      }
      encodings[i] = weights[weight].encoding;
      rows[i] = row<uint8_t>(weights[weight].data, std::min(at, weights[weight].shape[0] - 1));
    }
  }
};

/// One call of linear.
class Int8LinearCall {
 public:
  Int8LinearCall(Context& ctx, const Int8Kernels& kernels, std::span<const StoredTensor> weights,
                 const PackedLinear& packed, const ConstTensor& x, const Epilogue& epilogue,
                 std::span<const TermSum> terms, const Tensor& out)
      : ctx_(ctx),
        kernels_(kernels),
        weights_(weights),
        packed_(packed),
        x_(x),
        epilogue_(epilogue),
        terms_(products_of<BFloat16>(terms)),
        out_(out),
        slices_(ceil_div(packed.depth, kInt8Slice)),
        block_rows_(round_up(std::min(x.size(0), kBlockRows), kInt8Rows)) {
    // Unpacking a weight takes as long as some 16 multiplications with it.
    threads_ = worthwhile_threads(ctx.threads(),
                                  packed.depth * packed.columns * std::max<int64_t>(x.size(0), 16));
    rows_ = ctx.workspace().allocate({slices_ * block_rows_, static_cast<int64_t>(sizeof(Int8Row))},
                                     DType::kU8);
    panels_ = per_thread_scratch(ctx, sizeof(Int8Panel));
    sums_ = ctx.workspace().allocate({ctx.threads(), block_rows_ * kInt8Columns}, DType::kF32);
  }

  void run() {
    for (int64_t first = 0; first < x_.size(0); first += block_rows_) {
      const int64_t rows = std::min(block_rows_, x_.size(0) - first);
      clear_rows_past(rows);
      for_row_tiles(ctx_, rows, packed_.depth, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) {
          kernels_.quantize(row<BFloat16>(x_, first + i), packed_.depth, slice(0) + i, block_rows_);
        }
      });
      parallel_for(threads_, ceil_div(packed_.columns, kInt8Columns),
                   [&](int64_t i, int thread) { run_panel(first, rows, i, thread); });
    }
  }

 private:
  /// [slices, rows]
  Int8Row* slice(int64_t i) const {
    return reinterpret_cast<Int8Row*>(rows_.data<std::byte>()) + i * block_rows_;
  }

  /// The last rows that are multiplied together may be fewer than the kernel takes.
  void clear_rows_past(int64_t rows) const {
    for (int64_t s = 0; s < slices_; ++s) {
      std::fill(slice(s) + rows, slice(s) + round_up(rows, kInt8Rows), Int8Row{});
    }
  }

  void run_panel(int64_t first, int64_t rows, int64_t i, int thread) {
    const int64_t column = i * kInt8Columns;
    const PanelColumns columns(weights_, column);
    auto* panel = reinterpret_cast<Int8Panel*>(row<std::byte>(panels_, thread));
    Int8Product product{};
    product.panel = panel;
    product.sums = row<float>(sums_, thread);
    product.epilogue = tile_epilogue<BFloat16>(packed_, epilogue_, terms_, out_, first, column);
    product.epilogue.rows = rows;
    product.epilogue.columns = std::min(kInt8Columns, packed_.columns - column);
    for (int64_t s = 0; s < slices_; ++s) {
      const int64_t begin = s * kInt8Slice;
      product.depth = std::min(kInt8Slice, packed_.depth - begin);
      product.rows = slice(s);
      product.first = s == 0;
      product.last = s + 1 == slices_;
      kernels_.unpack(columns.encodings, columns.rows, begin, product.depth, panel);
      kernels_.run(product);
    }
  }

  Context& ctx_;
  const Int8Kernels& kernels_;
  std::span<const StoredTensor> weights_;
  const PackedLinear& packed_;
  const ConstTensor& x_;
  const Epilogue& epilogue_;
  std::vector<TermProduct<BFloat16>> terms_;
  const Tensor& out_;
  int64_t slices_;
  int64_t block_rows_;
  int threads_ = 1;
  Tensor rows_;    // of a block, quantised
  Tensor panels_;  // of each thread
  Tensor sums_;    // of each thread
};

}  // namespace

const Int8Kernels* int8_kernels_for(std::span<const StoredTensor> weights) {
  const Int8Kernels& int8 = kernels().int8;
  if (int8.run == nullptr) return nullptr;
  const int64_t scaled = int8.scaled_values(weights[0].encoding);
  const bool all = std::all_of(weights.begin(), weights.end(), [&](const StoredTensor& weight) {
    return int8.scaled_values(weight.encoding) == scaled;
  });
  return all && scaled > 0 ? &int8 : nullptr;
}

void run_int8_linear(Context& ctx, const Int8Kernels& kernels,
                     std::span<const StoredTensor> weights, const PackedLinear& packed,
                     const ConstTensor& x, const Epilogue& epilogue, std::span<const TermSum> terms,
                     const Tensor& out) {
  Int8LinearCall(ctx, kernels, weights, packed, x, epilogue, terms, out).run();
}

}  // namespace flux::cpu
