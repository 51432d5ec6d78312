#include <algorithm>

#include "ops/cuda/cuda_backend.h"
#include "ops/cuda/dense.h"
#include "ops/cuda/kernels/kernels.h"

namespace flux::cuda {
namespace {

/// Inputs of output pixels that exist side by side at a time.
constexpr int64_t kColumnBytes = int64_t{128} << 20;

}  // namespace

std::shared_ptr<const PackedWeights> CudaBackend::pack_conv2d(Context& ctx, const Tensor& weight,
                                                              const Tensor& bias, DType dtype,
                                                              bool) {
  const int64_t out = weight.size(0);
  const int64_t in = weight.size(1);
  const int64_t kernel = weight.size(2);
  auto packed = std::make_shared<DenseWeights>();
  packed->weight = allocate_weights(ctx, {out, kernel * kernel * in}, dtype);
  const Tensor plain = allocate_weights(ctx, weight.shape(), dtype);
  uploader_.upload(weight, plain, ctx.threads());
  State& state = state_of(ctx);
  state.wait_for_uploads(uploader_.count(), uploader_.done());
  reorder_filters(plain.raw(), out, in, kernel, packed->weight.raw(), dtype, state.stream());
  check_launch("reorder_filters");
  const Tensor filters = weight.reshape({out, weight.numel() / out});
  set_bias(ctx, {&filters, 1}, {&bias, 1}, *packed);
  check_cuda(cudaStreamSynchronize(state.stream()), "reorder_filters");  // `plain` goes
  return packed;
}

void CudaBackend::conv2d(Context& ctx, const Tensor& x, const Conv2dWeights& weights,
                         const Tensor& added, const Tensor& out) {
  State& state = state_of(ctx);
  const auto& packed = static_cast<const DenseWeights&>(*weights.packed);
  const int64_t pixels = out.size(0) * out.size(1);
  const auto as_rows = [&](const Tensor& image) {
    return image.defined() ? image.reshape({pixels, image.size(2)}) : image;
  };
  const Tensor result = as_rows(out);
  const Tensor residual = as_rows(added);
  if (weights.kernel == 1 && !weights.upsample) {
    const Epilogue epilogue{.activation = Activation::kNone, .gate = {}, .residual = residual};
    return dense(ctx, state, as_rows(x), packed, epilogue, result);
  }
  const Workspace::Scope scope(ctx.workspace());
  const int64_t depth = packed.weight.size(1);
  const auto element = static_cast<int64_t>(size_of(x.dtype()));
  const int64_t at_once = std::clamp<int64_t>(kColumnBytes / (depth * element), 1, pixels);
  const Tensor columns = ctx.workspace().allocate({at_once, depth}, x.dtype());
  for (int64_t first = 0; first < pixels; first += at_once) {
    const int64_t end = std::min(pixels, first + at_once);
    im2col({.x = address(ctx, x),
            .height = x.size(0),
            .width = x.size(1),
            .channels = x.size(2),
            .kernel = weights.kernel,
            .upsample = weights.upsample,
            .first = first,
            .count = end - first,
            .out = columns.raw()},
           x.dtype(), state.stream());
    check_launch("im2col");
    Epilogue epilogue;
    if (residual.defined()) epilogue.residual = residual.slice(0, first, end);
    dense(ctx, state, columns.slice(0, 0, end - first), packed, epilogue,
          result.slice(0, first, end));
  }
}

}  // namespace flux::cuda
