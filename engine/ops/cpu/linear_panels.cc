#include <algorithm>

#include "ops/cpu/isa.h"
#include "ops/cpu/packed_linear.h"
#include "ops/cpu/rows.h"
#include "ops/cpu/weight_memory.h"

/// Linear layers in f32. A product is cut into parts of its rows and of its depth, so that what a
/// part works on stays in the L3 cache, and these into strips of columns, whatever the number of
/// threads. Rows are packed once for all strips.
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

class PanelLinear final : public PackedLinear {
 public:
  PanelLinear(Context& ctx, std::span<const Tensor> weights) : kernels_(cpu::kernels().products) {
    depth = weights[0].size(1);
    for (const Tensor& weight : weights) columns += weight.size(0);
    memory = allocate_weights(strips() * strip_floats() * static_cast<int64_t>(sizeof(float)));
    parallel_for(ctx.threads(), strips(), [&](int64_t i) {
      const int64_t begin = i * kernels_.strip_columns;
      Tensor buffer;
      const void* plain = gather_rows(weights, begin, begin + width(i), DType::kF32, buffer);
      kernels_.pack_weights(static_cast<const float*>(plain), width(i), depth, strip(i));
    });
  }

  void run(Context& ctx, const Tensor& x, const Epilogue& epilogue,
           const Tensor& out) const override;

  int64_t strips() const { return (columns + kernels_.strip_columns - 1) / kernels_.strip_columns; }
  int64_t width(int64_t i) const {
    return std::min(kernels_.strip_columns, columns - i * kernels_.strip_columns);
  }
  int64_t strip_floats() const { return kernels_.strip_columns * depth; }
  float* strip(int64_t i) const { return memory.data<float>() + i * strip_floats(); }
  const ProductKernels& kernels() const { return kernels_; }

 private:
  const ProductKernels& kernels_;  // those in use when it is made: the layout fits no others
};

/// One call of linear.
class LinearCall {
 public:
  LinearCall(Context& ctx, const Tensor& x, const PanelLinear& packed, const Epilogue& epilogue,
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
    scratch_ = ctx.workspace().allocate(
        {ctx.threads(), (kernels_.scratch_floats(depth_) + 15) / 16 * 16}, DType::kF32);
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

  int64_t multiple_of_groups(int64_t rows) const {
    return (rows + kernels_.group_rows - 1) / kernels_.group_rows * kernels_.group_rows;
  }

  void run_part(const Part& part) {
    const int64_t group_rows = kernels_.group_rows;
    parallel_for(threads_, (part.rows + group_rows - 1) / group_rows, [&](int64_t i) {
      const int64_t first = i * group_rows;
      kernels_.pack_rows(scheme_, row<float>(x_, part.row + first) + part.begin, x_.stride(0),
                         std::min(group_rows, part.rows - first), part.depth, packed_rows(part, i));
    });
    parallel_for(threads_, packed_.strips(),
                 [&](int64_t i, int thread) { run_strip(part, i, thread); });
  }

  float* packed_rows(const Part& part, int64_t group) const {
    return rows_.data<float>() + group * kernels_.group_floats(scheme_, part.depth);
  }

  void run_strip(const Part& part, int64_t i, int thread) {
    ProductStrip strip{};
    strip.scheme = scheme_;
    strip.rows = packed_rows(part, 0);
    strip.left = packed_.strip(i) + part.begin * kernels_.panel_columns;
    strip.right = strip.left + packed_.depth * kernels_.panel_columns;
    strip.depth = part.depth;
    strip.first = part.begin == 0;
    strip.last = part.begin + part.depth == packed_.depth;
    const bool in_parts = depth_ < packed_.depth;
    strip.sums = row<float>(sums_, in_parts ? i * part_rows_ : thread * kernels_.group_rows);
    strip.end = end_of(part.row, i);
    strip.end.rows = part.rows;
    strip.scratch = row<float>(scratch_, thread);
    kernels_.run(strip);
  }

  /// What becomes of the sums of strip i, from a row on.
  TileEpilogue<float> end_of(int64_t first, int64_t i) const {
    auto end = tile_epilogue<float>(packed_, epilogue_, out_, first, i * kernels_.strip_columns);
    end.columns = packed_.width(i);
    return end;
  }

  const Tensor& x_;
  const PanelLinear& packed_;
  const ProductKernels& kernels_;
  const Epilogue& epilogue_;
  const Tensor& out_;
  int64_t depth_;  // of a part
  ProductScheme scheme_ = ProductScheme::kPlain;
  int threads_ = 1;
  int64_t part_rows_ = 0;
  Tensor rows_;     // of a part, packed: [groups, floats of one]
  Tensor sums_;     // of a part, or of a group for each thread where the depth is in one part
  Tensor scratch_;  // of each thread
};

void PanelLinear::run(Context& ctx, const Tensor& x, const Epilogue& epilogue,
                      const Tensor& out) const {
  LinearCall(ctx, x, *this, epilogue, out).run();
}

}  // namespace

std::shared_ptr<PackedLinear> pack_f32_linear(Context& ctx, std::span<const Tensor> weights) {
  return std::make_shared<PanelLinear>(ctx, weights);
}

}  // namespace flux::cpu
