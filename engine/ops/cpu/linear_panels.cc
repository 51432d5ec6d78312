#include <algorithm>
#include <type_traits>

#include "ops/cpu/isa.h"
#include "ops/cpu/packed_linear.h"
#include "ops/cpu/rows.h"
#include "ops/cpu/weight_memory.h"

/// Linear layers by products of f32. A product is cut into parts of its rows and of its depth, so
/// that what a part works on stays in the L3 cache, and these into strips of columns, whatever the
/// number of threads. Rows are packed once for all strips. bf16 rows and weights are widened where
/// they are used, a few at a time.
namespace flux::cpu {
namespace {

constexpr int64_t kPartRows = 768;
constexpr int64_t kPartDepth = 768;
/// What Strassen's scheme needs for its additions to pay.
constexpr int64_t kStrassenRows = 96;
constexpr int64_t kStrassenDepth = 256;

/// Depth is cut into parts of this, the last of what is left. Even, for halves.
int64_t part_depth(int64_t depth) {
  const int64_t parts = (depth + kPartDepth - 1) / kPartDepth;
  return ((depth + parts - 1) / parts + 1) / 2 * 2;
}

template <typename T>
constexpr bool kWiden = !std::is_same_v<T, float>;

/// T: of weights and activations.
template <typename T>
class PanelLinear final : public PackedLinear {
 public:
  PanelLinear(Context& ctx, std::span<const Tensor> weights) : kernels_(cpu::kernels().products) {
    depth = weights[0].size(1);
    for (const Tensor& weight : weights) columns += weight.size(0);
    memory = allocate_weights(strips() * strip_elements() * static_cast<int64_t>(sizeof(T)));
    parallel_for(ctx.threads(), strips(), [&](int64_t i) {
      const int64_t begin = i * kernels_.strip_columns;
      Tensor buffer;
      const auto* plain = static_cast<const float*>(
          gather_rows(weights, begin, begin + width(i), DType::kF32, buffer));
      if constexpr (kWiden<T>) {
        const Tensor wide = Tensor::allocate({strip_elements()}, DType::kF32);
        kernels_.pack_weights(plain, width(i), depth, wide.data<float>());
        narrow(wide.data<float>(), strip_elements(), strip(i));
      } else {
        kernels_.pack_weights(plain, width(i), depth, strip(i));
      }
    });
  }

  void run(Context& ctx, const Tensor& x, const Epilogue& epilogue,
           const Tensor& out) const override;

  int64_t strips() const { return (columns + kernels_.strip_columns - 1) / kernels_.strip_columns; }
  int64_t width(int64_t i) const {
    return std::min(kernels_.strip_columns, columns - i * kernels_.strip_columns);
  }
  int64_t strip_elements() const { return kernels_.strip_columns * depth; }
  T* strip(int64_t i) const { return memory.data<T>() + i * strip_elements(); }
  const ProductKernels& kernels() const { return kernels_; }

 private:
  const ProductKernels& kernels_;  // those in use when it is made: the layout fits no others
};

/// One call of linear.
template <typename T>
class LinearCall {
 public:
  LinearCall(Context& ctx, const Tensor& x, const PanelLinear<T>& packed, const Epilogue& epilogue,
             const Tensor& out)
      : x_(x),
        packed_(packed),
        kernels_(packed.kernels()),
        epilogue_(epilogue),
        out_(out),
        depth_(part_depth(packed.depth)) {
    const int64_t rows = x.size(0);
    const bool pays = rows >= kStrassenRows && packed.depth >= kStrassenDepth;
    scheme_ = pays && packed.depth % 2 == 0 ? ProductScheme::kStrassen : ProductScheme::kPlain;
    // Reading a weight takes as long as some 16 multiplications with it.
    threads_ = worthwhile_threads(ctx.threads(),
                                  packed.depth * packed.columns * std::max<int64_t>(rows, 16));
    part_rows_ = multiple_of_groups(std::min(rows, kPartRows));
    const int64_t groups = part_rows_ / kernels_.group_rows;
    rows_ = ctx.workspace().allocate({groups, kernels_.group_floats(scheme_, depth_)}, DType::kF32);
    const bool in_parts = depth_ < packed.depth;
    sums_ = ctx.workspace().allocate(
        {in_parts ? packed.strips() * part_rows_ : ctx.threads() * kernels_.group_rows,
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
    for (int64_t row = 0; row < x_.size(0); row += part_rows_) {
      const int64_t rows = std::min(part_rows_, x_.size(0) - row);
      for (int64_t begin = 0; begin < packed_.depth; begin += depth_) {
        run_part({row, rows, begin, std::min(depth_, packed_.depth - begin)});
      }
    }
  }

 private:
  struct Part {
    int64_t row;
    int64_t rows;
    int64_t begin;  // of its depth
    int64_t depth;
  };

  static float* floats_of(const Tensor& scratch, int thread) {
    return reinterpret_cast<float*>(row<std::byte>(scratch, thread));
  }

  int64_t multiple_of_groups(int64_t rows) const {
    return (rows + kernels_.group_rows - 1) / kernels_.group_rows * kernels_.group_rows;
  }

  void run_part(const Part& part) {
    const int64_t group_rows = kernels_.group_rows;
    parallel_for(threads_, (part.rows + group_rows - 1) / group_rows, [&](int64_t i, int thread) {
      const int64_t first = i * group_rows;
      const int64_t rows = std::min(group_rows, part.rows - first);
      const T* x = row<T>(x_, part.row + first) + part.begin;
      const auto pack = [&](const float* from, int64_t stride) {
        kernels_.pack_rows(scheme_, from, stride, rows, part.depth, packed_rows(part, i));
      };
      if constexpr (kWiden<T>) {
        float* wide = floats_of(wide_rows_, thread);
        for (int64_t r = 0; r < rows; ++r) {
          widen(x + r * x_.stride(0), part.depth, wide + r * part.depth);
        }
        pack(wide, part.depth);
      } else {
        pack(x, x_.stride(0));
      }
    });
    parallel_for(threads_, packed_.strips(),
                 [&](int64_t i, int thread) { run_strip(part, i, thread); });
  }

  float* packed_rows(const Part& part, int64_t group) const {
    return rows_.data<float>() + group * kernels_.group_floats(scheme_, part.depth);
  }

  void run_strip(const Part& part, int64_t i, int thread) {
    ProductStrip<T> strip{};
    strip.scheme = scheme_;
    strip.rows = packed_rows(part, 0);
    const T* left = packed_.strip(i) + part.begin * kernels_.panel_columns;
    const T* right = left + packed_.depth * kernels_.panel_columns;
    if constexpr (kWiden<T>) {
      const int64_t panel = part.depth * kernels_.panel_columns;
      float* wide = floats_of(wide_panels_, thread);
      widen(left, panel, wide);
      widen(right, panel, wide + panel);
      strip.left = wide;
      strip.right = wide + panel;
    } else {
      strip.left = left;
      strip.right = right;
    }
    strip.depth = part.depth;
    strip.first = part.begin == 0;
    strip.last = part.begin + part.depth == packed_.depth;
    const bool in_parts = depth_ < packed_.depth;
    strip.sums = row<float>(sums_, in_parts ? i * part_rows_ : thread * kernels_.group_rows);
    strip.end = end_of(part.row, i);
    strip.end.rows = part.rows;
    strip.scratch = floats_of(scratch_, thread);
    kernels_.run(strip);
  }

  /// What becomes of the sums of strip i, from a row on.
  TileEpilogue<T> end_of(int64_t first, int64_t i) const {
    auto end = tile_epilogue<T>(packed_, epilogue_, out_, first, i * kernels_.strip_columns);
    end.columns = packed_.width(i);
    return end;
  }

  const Tensor& x_;
  const PanelLinear<T>& packed_;
  const ProductKernels& kernels_;
  const Epilogue& epilogue_;
  const Tensor& out_;
  int64_t depth_;  // of a part
  ProductScheme scheme_ = ProductScheme::kPlain;
  int threads_ = 1;
  int64_t part_rows_ = 0;
  Tensor rows_;  // of a part, packed: [groups, floats of one]
  Tensor sums_;  // of a part, or of a group for each thread where the depth is in one part
  // Of each thread; the last two only where there is something to widen.
  Tensor scratch_;
  Tensor wide_rows_;
  Tensor wide_panels_;
};

template <typename T>
void PanelLinear<T>::run(Context& ctx, const Tensor& x, const Epilogue& epilogue,
                         const Tensor& out) const {
  LinearCall<T>(ctx, x, *this, epilogue, out).run();
}

}  // namespace

std::shared_ptr<PackedLinear> pack_panel_linear(Context& ctx, std::span<const Tensor> weights,
                                                DType dtype) {
  if (dtype == DType::kF32) return std::make_shared<PanelLinear<float>>(ctx, weights);
  return std::make_shared<PanelLinear<BFloat16>>(ctx, weights);
}

}  // namespace flux::cpu
