#include "ops/cuda/dense.h"

#include <algorithm>
#include <vector>

#include "ops/cuda/cublas.h"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/weight_terms.h"
#include "ops/kernels.h"

namespace flux::cuda {
namespace {

/// Whether the rows of all tensors can be read in vectors of 16 bytes.
bool in_vectors(std::initializer_list<const ConstTensor*> tensors) {
  return std::all_of(tensors.begin(), tensors.end(), [](const ConstTensor* tensor) {
    if (!tensor->defined()) return true;
    const auto element = static_cast<int64_t>(size_of(tensor->dtype()));
    return reinterpret_cast<uintptr_t>(tensor->raw()) % 16 == 0 &&
           tensor->stride(0) * element % 16 == 0 && tensor->size(1) * element % 16 == 0;
  });
}

}  // namespace

StoreRows store_args(Context& ctx, const DenseWeights& weights, const Epilogue& epilogue,
                     const Tensor& out) {
  StoreRows store{};
  store.rows = out.size(0);
  store.columns = out.size(1);
  store.bias = optional_floats(ctx, weights.bias);
  store.activation = epilogue.activation;
  store.gate = optional_floats(ctx, epilogue.gate);
  store.residual = optional_address(ctx, epilogue.residual);
  if (epilogue.residual.defined()) store.residual_stride = epilogue.residual.stride(0);
  store.out = address(ctx, out);
  store.out_stride = out.stride(0);
  return store;
}

HopperLinear::Segment hopper_segment(Context& ctx, const ConstTensor& x,
                                     const DenseWeights& weights, const Epilogue& epilogue,
                                     const Tensor& out) {
  const StoreRows store = store_args(ctx, weights, epilogue, out);
  HopperLinear::Segment segment{};
  segment.x = address(ctx, x);
  segment.x_stride = x.stride(0);
  segment.rows = store.rows;
  segment.bias = store.bias;
  segment.gate = store.gate;
  segment.residual = store.residual;
  segment.residual_stride = store.residual_stride;
  segment.out = store.out;
  segment.out_stride = store.out_stride;
  if (const auto& norm = epilogue.norm) {
    segment.norm.weights[0] = optional_floats(ctx, norm->weight_q);
    segment.norm.weights[1] = optional_floats(ctx, norm->weight_k);
    segment.norm.cos = optional_floats(ctx, norm->rope.cos);
    segment.norm.sin = optional_floats(ctx, norm->rope.sin);
    segment.norm.eps = norm->eps;
  }
  return segment;
}

void set_heads(const std::optional<HeadNorm>& norm, HopperLinear& linear) {
  if (!norm) return;
  linear.head_dim = norm->head_dim();
  linear.q_columns = norm->q_heads * linear.head_dim;
  linear.k_columns = norm->k_heads * linear.head_dim;
}

namespace {

Product product_of(Context& ctx, const ConstTensor& x, const DenseWeights& weights) {
  Product product;
  product.dtype = x.dtype();
  product.out_dtype = x.dtype();
  product.rows = x.size(0);
  product.columns = weights.weight.size(0);
  product.depth = x.size(1);
  product.x = address(ctx, x);
  product.x_stride = x.stride(0);
  product.w = address(ctx, weights.weight);
  product.w_stride = weights.weight.stride(0);
  return product;
}

/// Moves the operations that cuBLASLt can do after the product from `rest` to the product.
void fuse(const DenseWeights& weights, bool vectors, DType dtype, StoreRows& rest,
          Product& product) {
  const bool plain = rest.activation == Activation::kNone;
  // In f32 its GELU is not as exact as ours.
  const bool gelu = rest.activation == Activation::kGeluTanh && dtype == DType::kBF16 && rest.bias;
  if (!vectors || !(plain || gelu)) return;
  if (rest.bias) {
    product.epilogue = gelu ? ProductEpilogue::kBiasGeluTanh : ProductEpilogue::kBias;
    product.bias = weights.rounded_bias.raw();
    rest.bias = nullptr;
    rest.activation = Activation::kNone;
  }
  if (plain && rest.residual && !rest.gate) {
    product.added = rest.residual;
    product.added_stride = rest.residual_stride;
    rest.residual = nullptr;
  }
}

/// Computes a product of a few rows in one pass over its weights; false where it cannot.
bool few_rows(Context& ctx, State& state, const DenseSegment& segment) {
  const auto& [x, weights, epilogue, out, changes] = segment;
  if (x.size(0) > kMaxProductRows || x.size(1) % 8 != 0 || !in_vectors({&x, &weights->weight})) {
    return false;
  }
  const RowProduct args{address(ctx, x), x.stride(0), address(ctx, weights->weight), x.size(1),
                        store_args(ctx, *weights, epilogue, out)};
  check_cuda(row_product(args, x.dtype(), state.stream()), "row_product");
  return true;
}

/// Computes all segments by hopper_linear(); false where it cannot, or cuBLASLt is faster.
bool on_hopper(Context& ctx, State& state, std::span<const DenseSegment> segments) {
  const DenseSegment& first = segments[0];
  const Activation activation = first.epilogue.activation;
  const bool gelu = activation == Activation::kGeluTanh && first.weights->bias.defined();
  const bool adds = first.epilogue.residual.defined() && !first.epilogue.gate.defined();
  if (!state.traits().hopper || first.x.dtype() != DType::kBF16 || adds ||
      (activation != Activation::kNone && !gelu)) {
    return false;
  }
  std::vector<HopperLinear::Segment> own;
  for (const auto& [x, weights, epilogue, out, changes] : segments) {
    own.push_back(hopper_segment(ctx, x, *weights, epilogue, out));
    own.back().weights = address(ctx, weights->weight);
  }
  HopperLinear linear{
      .depth = first.x.size(1), .columns = first.out.size(1), .gelu = gelu, .segments = own};
  set_heads(first.epilogue.norm, linear);
  if (!hopper_linear_supports(linear)) return false;
  // Without GELU both give the same bits. With it they do not: cuBLASLt applies GELU before the
  // product is rounded, this kernel, like diffusers, afterwards. So that a result does not depend
  // on the rest of the batch, GELU is never left to cuBLASLt here.
  if (!gelu && !hopper_linear_is_faster(linear, state.traits())) return false;
  check_cuda(hopper_linear(linear, state.traits(), state.stream()), "hopper_linear");
  return true;
}

/// Products with changes of the weights: by hopper_linear() those that it can compute, which does
/// not depend on the others.
class ChangedProducts {
 public:
  ChangedProducts(Context& ctx, State& state) : ctx_(ctx), state_(state) {}
  ChangedProducts(const ChangedProducts&) = delete;
  ChangedProducts& operator=(const ChangedProducts&) = delete;

  /// Computes the segment, at the latest in finish().
  void add(const DenseSegment& segment) {
    if (!state_.traits().hopper || segment.x.dtype() != DType::kBF16) return by_passes(segment);
    const bool is_fused = fused(segment);
    const Tensor product = is_fused || !segment.epilogue.residual.defined()
                               ? segment.out
                               : ctx_.workspace().allocate(segment.out.shape(), DType::kBF16);
    HopperLinear::Segment own = hopper_segment(ctx_, segment.x, *segment.weights,
                                               is_fused ? segment.epilogue : Epilogue{}, product);
    own.weights = address(ctx_, segment.weights->weight);
    set_changes(*segment.changes, own);
    if (!hopper_linear_supports(linear_of(segment, {&own, 1}))) return by_passes(segment);
    const size_t terms = own.changes.terms.size();
    if (own_.size() == kMaxLinearSegments || terms_ + terms > kMaxLinearTerms) launch();
    own_.push_back(own);
    waiting_.push_back(segment);
    products_.push_back(product);
    terms_ += terms;
  }
  void finish() {
    if (!own_.empty()) launch();
  }

 private:
  /// Whether the kernel has the epilogue.
  static bool fused(const DenseSegment& segment) {
    const Epilogue& epilogue = segment.epilogue;
    const bool gelu = epilogue.activation == Activation::kGeluTanh && !epilogue.residual.defined();
    return (epilogue.activation == Activation::kNone || gelu) &&
           (epilogue.residual.defined() || !epilogue.gate.defined());
  }
  HopperLinear linear_of(const DenseSegment& like,
                         std::span<const HopperLinear::Segment> segments) const {
    const bool gelu = fused(like) && like.epilogue.activation == Activation::kGeluTanh;
    HopperLinear linear{
        .depth = like.x.size(1), .columns = like.out.size(1), .gelu = gelu, .segments = segments};
    set_heads(like.epilogue.norm, linear);
    return linear;
  }

  void launch() {
    check_cuda(hopper_linear(linear_of(waiting_[0], own_), state_.traits(), state_.stream()),
               "hopper_linear");
    for (size_t i = 0; i < waiting_.size(); ++i) {
      if (!fused(waiting_[i])) store(waiting_[i], products_[i]);
    }
    own_.clear();
    waiting_.clear();
    products_.clear();
    terms_ = 0;
  }

  /// The epilogue without the bias, of a product that has it.
  void store(const DenseSegment& segment, const Tensor& product) {
    StoreRows rest = store_args(ctx_, *segment.weights, segment.epilogue, segment.out);
    rest.bias = nullptr;
    rest.sums = product.raw();
    rest.sums_stride = product.stride(0);
    check_cuda(store_rows(rest, product.dtype(), state_.stream()), "store_rows");
  }

  /// A product for each change, whose sums are rounded to T in between.
  void by_passes(const DenseSegment& segment) {
    const auto& [x, weights, epilogue, out, changes] = segment;
    const Workspace::Scope scope(ctx_.workspace());
    const Tensor sums = ctx_.workspace().allocate(out.shape(), out.dtype());
    DenseWeights plain = *weights;
    plain.bias = {};
    plain.rounded_bias = {};
    multiply({x, &plain, {}, sums});
    StoreRows rest = store_args(ctx_, *weights, {}, sums);
    rest.sums = sums.raw();
    rest.sums_stride = sums.stride(0);
    rest.bias = nullptr;
    if (changes->factors.defined()) {
      rest.gate = changes->factors.data<float>();
      check_cuda(store_rows(rest, out.dtype(), state_.stream()), "store_rows");
    }
    for (const LowRankTerm& term : changes->low_rank) {
      DenseWeights up;
      up.weight = term.up->memory.slice(1, 0, term.up->rank);
      up.columns = up.weight.size(0);
      up.depth = term.up->rank;
      const Tensor own = sums.slice(1, term.begin, term.begin + up.columns);
      multiply({term.x.slice(1, 0, up.depth), &up, {Activation::kNone, {}, own}, own});
    }
    if (changes->added.defined()) {
      const Tensor& added = changes->added;
      const BinaryRows add{sums.raw(), sums.stride(0), added.raw(),  added.stride(0),
                           sums.raw(), sums.stride(0), sums.size(0), sums.size(1)};
      check_cuda(binary_rows(Binary::kAdd, add, out.dtype(), state_.stream()), "binary_rows");
    }
    rest = store_args(ctx_, *weights, epilogue, out);
    rest.sums = sums.raw();
    rest.sums_stride = sums.stride(0);
    if (changes->bias.defined()) rest.bias = changes->bias.data<float>();
    check_cuda(store_rows(rest, out.dtype(), state_.stream()), "store_rows");
    if (epilogue.norm) norm_heads(ctx_, *epilogue.norm, out);
  }
  void multiply(const DenseSegment& segment) { dense(ctx_, state_, {&segment, 1}); }

  Context& ctx_;
  State& state_;
  std::vector<HopperLinear::Segment> own_;
  std::vector<DenseSegment> waiting_;
  std::vector<Tensor> products_;
  size_t terms_ = 0;
};

void by_library(Context& ctx, State& state, const DenseSegment& segment) {
  const auto& [x, weights, epilogue, out, changes] = segment;
  const Workspace::Scope scope(ctx.workspace());
  StoreRows rest = store_args(ctx, *weights, epilogue, out);
  Product product = product_of(ctx, x, *weights);
  const bool vectors = in_vectors({&x, &out, &weights->weight, &epilogue.residual});
  fuse(*weights, vectors, x.dtype(), rest, product);
  const bool done =
      !rest.bias && rest.activation == Activation::kNone && !rest.gate && !rest.residual;
  // The product must not overwrite a residual that is still to be read.
  const Tensor sums =
      rest.residual == rest.out ? ctx.workspace().allocate(out.shape(), out.dtype()) : out;
  product.out = sums.raw();
  product.out_stride = sums.stride(0);
  multiply(state, product);
  if (done) return;
  rest.sums = sums.raw();
  rest.sums_stride = sums.stride(0);
  check_cuda(store_rows(rest, x.dtype(), state.stream()), "store_rows");
}

}  // namespace

DecodeRows decoding_of(const EncodedRows& rows, const Tensor& out) {
  return {.encoding = rows.encoding,
          .bytes = static_cast<const uint8_t*>(rows.bytes.raw()),
          .row_bytes = rows.bytes.size(1),
          .scales = rows.scales.defined() ? rows.scales.data<float>() : nullptr,
          .scale_each_row = rows.scales.defined() && rows.scales.numel() > 1,
          .rows = rows.rows,
          .columns = out.size(1),
          .out = out.raw()};
}

void set_bias(Context& ctx, std::span<const StoredTensor> weights,
              std::span<const ConstTensor> biases, DType dtype, DenseWeights& packed) {
  const Tensor values = stack_biases(weights, biases);
  if (!values.defined()) return;
  // A model of bf16 has biases of bf16.
  const Tensor rounded = to_dtype(values, dtype);
  packed.bias = to_device(ctx, to_dtype(rounded, DType::kF32));
  packed.rounded_bias = to_device(ctx, rounded);
}

void dense(Context& ctx, State& state, std::span<const DenseSegment> segments) {
  std::vector<DenseSegment> large;
  const auto finish = [&](const DenseSegment& segment) {
    if (segment.epilogue.norm) norm_heads(ctx, *segment.epilogue.norm, segment.out);
  };
  ChangedProducts changed(ctx, state);
  for (const DenseSegment& segment : segments) {
    if (segment.changes) {
      changed.add(segment);
    } else if (few_rows(ctx, state, segment)) {
      finish(segment);
    } else {
      large.push_back(segment);
    }
  }
  changed.finish();
  for (size_t begin = 0; begin < large.size(); begin += kMaxLinearSegments) {
    const size_t count = std::min(kMaxLinearSegments, large.size() - begin);
    const std::span<const DenseSegment> together(large.data() + begin, count);
    if (on_hopper(ctx, state, together)) continue;
    for (const DenseSegment& segment : together) {
      by_library(ctx, state, segment);
      finish(segment);
    }
  }
}

}  // namespace flux::cuda
