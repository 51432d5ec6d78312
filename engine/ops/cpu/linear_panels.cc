#include <algorithm>
#include <type_traits>
#include <vector>

#include "ops/cpu/isa.h"
#include "ops/cpu/packed_linear.h"
#include "ops/cpu/rows.h"
#include "ops/cpu/weight_memory.h"
#include "support/integer.h"

/// Linear layers by products of f32. A product is cut into blocks of its rows and of its depth, so
/// that the operands of a block stay in the L3 cache, and blocks into strips of columns, whatever
/// the number of threads. Rows are packed once for all strips. bf16 rows and weights are widened
/// where they are used, a few at a time.
namespace flux::cpu {
namespace {

constexpr int64_t kBlockRows = 768;
constexpr int64_t kBlockDepth = 768;
/// Strassen's scheme needs at least these rows and this depth for its additions to pay.
constexpr int64_t kStrassenRows = 96;
constexpr int64_t kStrassenDepth = 256;

/// Depth of a block; the last block takes the rest. It is even, because Strassen's scheme halves
/// it.
int64_t block_depth(int64_t depth) {
  const int64_t blocks = ceil_div(depth, kBlockDepth);
  return round_up(ceil_div(depth, blocks), 2);
}

template <typename T>
constexpr bool kWiden = !std::is_same_v<T, float>;

/// T is the type of weights and activations.
template <typename T>
class PanelLinear final : public PackedLinear {
 public:
  PanelLinear(Context& ctx, std::span<const StoredTensor> weights, const WeightMemory& allocate)
      : kernels_(cpu::kernels().products) {
    depth = weights[0].shape[1];
    for (const StoredTensor& weight : weights) columns += weight.shape[0];
    memory = allocate(strips() * strip_elements() * static_cast<int64_t>(sizeof(T)));
    std::vector<Tensor> buffers(static_cast<size_t>(ctx.threads()));
    parallel_for(ctx.threads(), strips(), [&](int64_t i, int thread) {
      const int64_t begin = i * kernels_.strip_columns;
      const auto* plain = static_cast<const float*>(gather_rows(
          weights, begin, begin + width(i), DType::kF32, buffers[static_cast<size_t>(thread)]));
      if constexpr (kWiden<T>) {
        const Tensor wide = Tensor::allocate({strip_elements()}, DType::kF32);
        kernels_.pack_weights(plain, width(i), depth, wide.data<float>());
        narrow(wide.data<float>(), strip_elements(), strip(i));
      } else {
        kernels_.pack_weights(plain, width(i), depth, strip(i));
      }
    });
  }

  void run(Context& ctx, const ConstTensor& x, const Epilogue& epilogue,
           std::span<const TermSum> terms, const Tensor& out) const override;

  int64_t strips() const { return ceil_div(columns, kernels_.strip_columns); }
  int64_t width(int64_t i) const {
    return std::min(kernels_.strip_columns, columns - i * kernels_.strip_columns);
  }
  int64_t strip_elements() const { return kernels_.strip_columns * depth; }
  T* strip(int64_t i) const { return static_cast<T*>(memory.raw()) + i * strip_elements(); }
  const ProductKernels& kernels() const { return kernels_; }

 private:
  const ProductKernels& kernels_;  // those in use at construction: the layout fits no others
};

/// One call of linear.
template <typename T>
class PanelLinearCall {
 public:
  PanelLinearCall(Context& ctx, const ConstTensor& x, const PanelLinear<T>& packed,
                  const Epilogue& epilogue, std::span<const TermSum> terms, const Tensor& out)
      : x_(x),
        packed_(packed),
        kernels_(packed.kernels()),
        epilogue_(epilogue),
        terms_(products_of<T>(terms)),
        out_(out),
        depth_(block_depth(packed.depth)) {
    const int64_t rows = x.size(0);
    const bool pays = rows >= kStrassenRows && packed.depth >= kStrassenDepth;
    scheme_ = pays && packed.depth % 2 == 0 ? ProductScheme::kStrassen : ProductScheme::kPlain;
    // Reading a weight takes as long as some 16 multiplications with it.
    threads_ = worthwhile_threads(ctx.threads(),
                                  packed.depth * packed.columns * std::max<int64_t>(rows, 16));
    block_rows_ = multiple_of_groups(std::min(rows, kBlockRows));
    const int64_t groups = block_rows_ / kernels_.group_rows;
    rows_ = ctx.workspace().allocate({groups, kernels_.group_floats(scheme_, depth_)}, DType::kF32);
    const bool several_blocks = depth_ < packed.depth;
    sums_ = ctx.workspace().allocate(
        {several_blocks ? packed.strips() * block_rows_ : ctx.threads() * kernels_.group_rows,
         kernels_.strip_columns},
        DType::kF32);
    constexpr auto kFloat = static_cast<int64_t>(sizeof(float));
    scratch_ = per_thread_scratch(ctx, kernels_.scratch_floats(depth_) * kFloat);
    if constexpr (kWiden<T>) {
      wide_rows_ = per_thread_scratch(ctx, kernels_.group_rows * depth_ * kFloat);
      wide_panels_ = per_thread_scratch(ctx, kernels_.strip_columns * depth_ * kFloat);
    }
  }

  void run() {
    for (int64_t row = 0; row < x_.size(0); row += block_rows_) {
      const int64_t rows = std::min(block_rows_, x_.size(0) - row);
      for (int64_t begin = 0; begin < packed_.depth; begin += depth_) {
        run_block({row, rows, begin, std::min(depth_, packed_.depth - begin)});
      }
    }
  }

 private:
  struct Block {
    int64_t row;
    int64_t rows;
    int64_t begin;  // along the depth
    int64_t depth;
  };

  static float* floats_of(const Tensor& scratch, int thread) {
    return reinterpret_cast<float*>(row<std::byte>(scratch, thread));
  }

  int64_t multiple_of_groups(int64_t rows) const { return round_up(rows, kernels_.group_rows); }

  void run_block(const Block& block) {
    const int64_t group_rows = kernels_.group_rows;
    parallel_for(threads_, ceil_div(block.rows, group_rows), [&](int64_t i, int thread) {
      const int64_t first = i * group_rows;
      const int64_t rows = std::min(group_rows, block.rows - first);
      const T* x = row<T>(x_, block.row + first) + block.begin;
      const auto pack = [&](const float* from, int64_t stride) {
        kernels_.pack_rows(scheme_, from, stride, rows, block.depth, packed_rows(block, i));
      };
      if constexpr (kWiden<T>) {
        float* wide = floats_of(wide_rows_, thread);
        for (int64_t r = 0; r < rows; ++r) {
          widen(x + r * x_.stride(0), block.depth, wide + r * block.depth);
        }
        pack(wide, block.depth);
      } else {
        pack(x, x_.stride(0));
      }
    });
    parallel_for(threads_, packed_.strips(),
                 [&](int64_t i, int thread) { run_strip(block, i, thread); });
  }

  float* packed_rows(const Block& block, int64_t group) const {
    return rows_.data<float>() + group * kernels_.group_floats(scheme_, block.depth);
  }

  void run_strip(const Block& block, int64_t i, int thread) {
    ProductStrip<T> strip{};
    strip.scheme = scheme_;
    strip.rows = packed_rows(block, 0);
    const T* left = packed_.strip(i) + block.begin * kernels_.panel_columns;
    const T* right = left + packed_.depth * kernels_.panel_columns;
    if constexpr (kWiden<T>) {
      const int64_t panel = block.depth * kernels_.panel_columns;
      float* wide = floats_of(wide_panels_, thread);
      widen(left, panel, wide);
      widen(right, panel, wide + panel);
      strip.left = wide;
      strip.right = wide + panel;
    } else {
      strip.left = left;
      strip.right = right;
    }
    strip.depth = block.depth;
    strip.first = block.begin == 0;
    strip.last = block.begin + block.depth == packed_.depth;
    const bool several_blocks = depth_ < packed_.depth;
    strip.sums = row<float>(sums_, several_blocks ? i * block_rows_ : thread * kernels_.group_rows);
    strip.epilogue = epilogue_of(block.row, i);
    strip.epilogue.rows = block.rows;
    strip.scratch = floats_of(scratch_, thread);
    kernels_.run(strip);
  }

  /// The epilogue of strip i, from row `first` on.
  TileEpilogue<T> epilogue_of(int64_t first, int64_t i) const {
    auto tile =
        tile_epilogue<T>(packed_, epilogue_, terms_, out_, first, i * kernels_.strip_columns);
    tile.columns = packed_.width(i);
    return tile;
  }

  const ConstTensor& x_;
  const PanelLinear<T>& packed_;
  const ProductKernels& kernels_;
  const Epilogue& epilogue_;
  std::vector<TermProduct<T>> terms_;
  const Tensor& out_;
  int64_t depth_;  // of a block
  ProductScheme scheme_ = ProductScheme::kPlain;
  int threads_ = 1;
  int64_t block_rows_ = 0;
  Tensor rows_;  // of a block, packed: [groups, floats of a group]
  Tensor sums_;  // of a block, or of one group for each thread if one block has the whole depth
  // Each thread has its own; the last two exist only for bf16, which is widened.
  Tensor scratch_;
  Tensor wide_rows_;
  Tensor wide_panels_;
};

template <typename T>
void PanelLinear<T>::run(Context& ctx, const ConstTensor& x, const Epilogue& epilogue,
                         std::span<const TermSum> terms, const Tensor& out) const {
  PanelLinearCall<T>(ctx, x, *this, epilogue, terms, out).run();
}

}  // namespace

std::shared_ptr<PackedLinear> pack_panel_linear(Context& ctx, std::span<const StoredTensor> weights,
                                                DType dtype, const WeightMemory& memory) {
  if (dtype == DType::kF32) return std::make_shared<PanelLinear<float>>(ctx, weights, memory);
  return std::make_shared<PanelLinear<BFloat16>>(ctx, weights, memory);
}

}  // namespace flux::cpu
