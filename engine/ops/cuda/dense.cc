#include "ops/cuda/dense.h"

#include <algorithm>
#include <vector>

#include "ops/cuda/cublas.h"
#include "ops/cuda/kernels/kernels.h"
#include "ops/kernels.h"

namespace flux::cuda {
namespace {

/// Whether vectors of 16 bytes can be read along the rows of all of them.
bool in_vectors(std::initializer_list<const Tensor*> tensors) {
  return std::all_of(tensors.begin(), tensors.end(), [](const Tensor* tensor) {
    if (!tensor->defined()) return true;
    const auto element = static_cast<int64_t>(size_of(tensor->dtype()));
    return reinterpret_cast<uintptr_t>(tensor->raw()) % 16 == 0 &&
           tensor->stride(0) * element % 16 == 0 && tensor->size(1) * element % 16 == 0;
  });
}

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

Product product_of(Context& ctx, const Tensor& x, const DenseWeights& weights) {
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

/// The product with all that cuBLASLt can do afterwards; `rest` keeps what is left to do.
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

/// A product of a few rows reads its weights once and is done.
bool few_rows(Context& ctx, State& state, const DensePart& part) {
  const auto& [x, weights, epilogue, out] = part;
  if (x.size(0) > kMaxProductRows || x.size(1) % 8 != 0 || !in_vectors({&x, &weights->weight})) {
    return false;
  }
  row_product({address(ctx, x), x.stride(0), address(ctx, weights->weight), x.size(1),
               store_args(ctx, *weights, epilogue, out)},
              x.dtype(), state.stream());
  check_launch("row_product");
  return true;
}

/// Whether our kernel, which has gates and norms and takes parts as one, is faster than the
/// library's, a product for each part and a pass for gates, or over queries and over keys. Without
/// GELU both give the same bits. The figures are an H100's in the middle of an image
/// (bench/ops/hopper_linear_bench.cc); the library is faster in deep products.
bool is_faster(const HopperLinear& linear, int multiprocessors) {
  const double library_speed = linear.depth > 8192 ? 700e12 : 650e12;  // operations a second
  constexpr double kOurs = 690e12;
  constexpr double kBytes = 2.5e12;
  constexpr int64_t kLostRows = 64;  // of a part's last tiles
  const auto width = static_cast<double>(linear.columns);
  double library = 0;
  for (const HopperLinear::Part& part : linear.parts) {
    library += 2.0 * static_cast<double>(part.rows + kLostRows) * width *
               static_cast<double>(linear.depth) / library_speed;
    if (part.residual) library += 6.0 * static_cast<double>(part.rows) * width / kBytes;
    if (linear.head_dim > 0) library += 8.0 / 3 * static_cast<double>(part.rows) * width / kBytes;
  }
  return hopper_linear_operations(linear, multiprocessors) / kOurs < library;
}

HopperLinear::Part hopper_part(Context& ctx, const DensePart& part) {
  const StoreRows store = store_args(ctx, *part.weights, part.epilogue, part.out);
  HopperLinear::Part own{.x = address(ctx, part.x),
                         .x_stride = part.x.stride(0),
                         .rows = store.rows,
                         .weights = address(ctx, part.weights->weight),
                         .bias = store.bias,
                         .gate = store.gate,
                         .residual = store.residual,
                         .residual_stride = store.residual_stride,
                         .norm = {},
                         .out = store.out,
                         .out_stride = store.out_stride};
  if (const auto& norm = part.epilogue.norm) {
    own.norm = {{optional_floats(ctx, norm->weight_q), optional_floats(ctx, norm->weight_k)},
                optional_floats(ctx, norm->rope.cos),
                optional_floats(ctx, norm->rope.sin),
                norm->eps};
  }
  return own;
}

/// False where our kernel cannot compute the parts, or the library should.
bool on_hopper(Context& ctx, State& state, std::span<const DensePart> parts) {
  const DensePart& first = parts[0];
  const Activation activation = first.epilogue.activation;
  const bool gelu = activation == Activation::kGeluTanh && first.weights->bias.defined();
  const bool adds = first.epilogue.residual.defined() && !first.epilogue.gate.defined();
  if (!state.traits().hopper || first.x.dtype() != DType::kBF16 || adds ||
      (activation != Activation::kNone && !gelu)) {
    return false;
  }
  std::vector<HopperLinear::Part> own;
  for (const DensePart& part : parts) own.push_back(hopper_part(ctx, part));
  const auto& norm = first.epilogue.norm;
  const int64_t head_dim = norm ? norm->weight_q.size(0) : 0;
  const HopperLinear linear{first.x.size(1), first.out.size(1), gelu, head_dim, own};
  const int multiprocessors = state.traits().multiprocessors;
  if (!hopper_linear_supports(linear)) return false;
  // The library's GELU is of the product before it is rounded, ours, as diffusers', after that:
  // with both a result would depend on what else is in the batch.
  if (!gelu && !is_faster(linear, multiprocessors)) return false;
  check_cuda(hopper_linear(linear, multiprocessors, state.stream()), "hopper_linear");
  return true;
}

void by_library(Context& ctx, State& state, const DensePart& part) {
  const auto& [x, weights, epilogue, out] = part;
  const Workspace::Scope scope(ctx.workspace());
  StoreRows rest = store_args(ctx, *weights, epilogue, out);
  Product product = product_of(ctx, x, *weights);
  const bool vectors = in_vectors({&x, &out, &weights->weight, &epilogue.residual});
  fuse(*weights, vectors, x.dtype(), rest, product);
  const bool done =
      !rest.bias && rest.activation == Activation::kNone && !rest.gate && !rest.residual;
  // What is still to be read must not be overwritten.
  const Tensor sums =
      rest.residual == rest.out ? ctx.workspace().allocate(out.shape(), out.dtype()) : out;
  product.out = sums.raw();
  product.out_stride = sums.stride(0);
  multiply(state, product);
  if (done) return;
  rest.sums = sums.raw();
  rest.sums_stride = sums.stride(0);
  store_rows(rest, x.dtype(), state.stream());
  check_launch("store_rows");
}

}  // namespace

void set_bias(Context& ctx, std::span<const Tensor> weights, std::span<const Tensor> biases,
              DenseWeights& packed) {
  if (std::none_of(biases.begin(), biases.end(), [](const Tensor& b) { return b.defined(); })) {
    return;
  }
  const Tensor values = Tensor::allocate({packed.weight.size(0)}, DType::kF32);
  std::fill_n(values.data<float>(), values.numel(), 0.0f);
  int64_t begin = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    const int64_t end = begin + weights[i].size(0);
    if (biases[i].defined()) copy_convert(biases[i], values.slice(0, begin, end));
    begin = end;
  }
  // A model of bf16 has biases of bf16.
  const Tensor rounded = to_dtype(values, packed.weight.dtype());
  packed.bias = to_device(ctx, to_dtype(rounded, DType::kF32));
  packed.rounded_bias = to_device(ctx, rounded);
}

void dense(Context& ctx, State& state, std::span<const DensePart> parts) {
  std::vector<DensePart> large;
  const auto finish = [&](const DensePart& part) {
    if (part.epilogue.norm) norm_heads(ctx, *part.epilogue.norm, part.out);
  };
  for (const DensePart& part : parts) {
    if (few_rows(ctx, state, part)) {
      finish(part);
    } else {
      large.push_back(part);
    }
  }
  for (size_t begin = 0; begin < large.size(); begin += kMaxLinearParts) {
    const size_t count = std::min(kMaxLinearParts, large.size() - begin);
    const std::span<const DensePart> turn(large.data() + begin, count);
    if (on_hopper(ctx, state, turn)) continue;
    for (const DensePart& part : turn) {
      by_library(ctx, state, part);
      finish(part);
    }
  }
}

}  // namespace flux::cuda
