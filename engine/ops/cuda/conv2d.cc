#include <algorithm>

#include "ops/cuda/cuda_backend.h"
#include "ops/cuda/dense.h"
#include "ops/cuda/kernels/kernels.h"

namespace flux::cuda {
namespace {

/// Bytes of gathered inputs (im2col) that exist at a time.
constexpr int64_t kColumnBytes = int64_t{128} << 20;

class PackedConv2d final : public PackedWeights {
 public:
  DenseWeights taps;  // [out, k x k x in]
  Tensor phases;  // [4, out, 2 x 2 x in], for Hopper's convolution of a doubled input; or undefined

  int64_t bytes() const override { return taps.bytes() + (phases.defined() ? phases.bytes() : 0); }
};

/// Whether hopper_convolution() computes it.
bool suits_hopper(const State& state, const Conv2dWeights& weights, int64_t pixels) {
  constexpr int64_t kMostPixels = int64_t{1} << 30;  // it counts in 32 bits
  return state.traits().hopper && weights.dtype == DType::kBF16 && weights.kernel == 3 &&
         weights.size != ConvSize::kHalved && hopper_convolution_supports(weights.in_channels) &&
         pixels <= kMostPixels;
}

/// Sets the offsets of the pixels that the taps of a filter read, from the top left. A phase is the
/// parity of output rows or columns of a doubled image, which read two; -1: all three.
void set_taps(HopperConvolution& conv, int phase_y, int phase_x) {
  const int side = phase_y < 0 ? 3 : 2;
  conv.taps = side * side;
  for (int tap = 0; tap < conv.taps; ++tap) {
    conv.dy[tap] = tap / side - (phase_y == 1 ? 0 : 1);
    conv.dx[tap] = tap % side - (phase_x == 1 ? 0 : 1);
  }
}

void convolve_on_hopper(Context& ctx, const State& state, const ConstTensor& x,
                        const PackedConv2d& packed, const ConstTensor& added, const Tensor& out) {
  HopperConvolution conv{};
  conv.x = address(ctx, x);
  conv.height = static_cast<int>(x.size(0));
  conv.width = static_cast<int>(x.size(1));
  conv.channels = static_cast<int>(x.size(2));
  conv.bias = optional_floats(ctx, packed.taps.bias);
  conv.residual = optional_address(ctx, added);
  conv.out = address(ctx, out);
  conv.out_channels = static_cast<int>(out.size(2));
  const auto run = [&] {
    check_cuda(hopper_convolution(conv, state.traits().multiprocessors, state.stream()),
               "hopper_convolution");
  };
  if (!packed.phases.defined()) {
    conv.weights = packed.taps.weight.raw();
    conv.out_step = 1;
    set_taps(conv, -1, -1);
    return run();
  }
  conv.out_step = 2;
  for (int phase = 0; phase < 4; ++phase) {
    conv.weights = packed.phases[phase].raw();
    conv.out_y = phase / 2;
    conv.out_x = phase % 2;
    set_taps(conv, conv.out_y, conv.out_x);
    run();
  }
}

/// Any convolution, as the product of the weights with the gathered inputs of each pixel.
void convolve_by_columns(Context& ctx, State& state, const ConstTensor& x,
                         const Conv2dWeights& weights, const ConstTensor& residual,
                         const Tensor& out) {
  const auto& packed = static_cast<const PackedConv2d&>(*weights.packed).taps;
  const Workspace::Scope scope(ctx.workspace());
  const int64_t pixels = out.size(0);
  const int64_t depth = packed.weight.size(1);
  const auto element = static_cast<int64_t>(size_of(x.dtype()));
  const int64_t at_once = std::clamp<int64_t>(kColumnBytes / (depth * element), 1, pixels);
  const Tensor columns = ctx.workspace().allocate({at_once, depth}, x.dtype());
  for (int64_t first = 0; first < pixels; first += at_once) {
    const int64_t end = std::min(pixels, first + at_once);
    const Im2col gather{.x = address(ctx, x),
                        .height = x.size(0),
                        .width = x.size(1),
                        .channels = x.size(2),
                        .kernel = weights.kernel,
                        .scale = weights.size == ConvSize::kDoubled ? 2 : 1,
                        .stride = weights.size == ConvSize::kHalved ? 2 : 1,
                        .border = weights.size == ConvSize::kHalved ? 0 : weights.kernel / 2,
                        .out_width = conv_side(weights.size, x.size(1)),
                        .first = first,
                        .count = end - first,
                        .out = columns.raw()};
    check_cuda(im2col(gather, x.dtype(), state.stream()), "im2col");
    Epilogue epilogue;
    if (residual.defined()) epilogue.residual = residual.slice(0, first, end);
    const DenseSegment segment{columns.slice(0, 0, end - first), &packed, epilogue,
                               out.slice(0, first, end)};
    dense(ctx, state, {&segment, 1});
  }
}

}  // namespace

std::shared_ptr<const PackedWeights> CudaBackend::pack_conv2d(Context& ctx,
                                                              const ConstTensor& weight,
                                                              const ConstTensor& bias, DType dtype,
                                                              ConvSize size) {
  const int64_t out = weight.size(0);
  const int64_t in = weight.size(1);
  const int64_t kernel = weight.size(2);
  State& state = state_of(ctx);
  auto packed = std::make_shared<PackedConv2d>();
  const auto on_gpu = [&](DType type) {
    const Tensor plain = new_tensor(ctx, weight.shape(), type);
    uploader_.upload(weight, plain, ctx.threads());
    state.wait_for_uploads(uploader_.count(), uploader_.done());
    return plain;
  };
  packed->taps.weight = new_tensor(ctx, {out, kernel * kernel * in}, dtype);
  const Tensor plain = on_gpu(dtype);
  check_cuda(reorder_filters(plain.raw(), out, in, kernel, packed->taps.weight.raw(), dtype,
                             state.stream()),
             "reorder_filters");
  const ConstTensor filters = weight.reshape({out, weight.numel() / out});
  const StoredTensor stored = filters;
  set_bias(ctx, {&stored, 1}, {&bias, 1}, dtype, packed->taps);
  Tensor exact;
  const bool doubled = size == ConvSize::kDoubled;
  if (doubled && suits_hopper(state, {in, out, kernel, dtype, size, nullptr}, 0)) {
    exact = on_gpu(DType::kF32);
    packed->phases = new_tensor(ctx, {4, out, 4 * in}, dtype);
    check_cuda(
        make_phase_filters(exact.data<float>(), out, in, packed->phases.raw(), state.stream()),
        "make_phase_filters");
  }
  check_cuda(cudaStreamSynchronize(state.stream()), "packing");  // `plain` and `exact` go
  return packed;
}

void CudaBackend::conv2d(Context& ctx, const ConstTensor& x, const Conv2dWeights& weights,
                         const ConstTensor& added, const Tensor& out) {
  State& state = state_of(ctx);
  const auto& packed = static_cast<const PackedConv2d&>(*weights.packed);
  const int64_t pixels = out.size(0) * out.size(1);
  if (suits_hopper(state, weights, pixels)) {
    return convolve_on_hopper(ctx, state, x, packed, added, out);
  }
  const auto as_rows = [&]<typename T>(const T& image) {
    return image.defined() ? image.reshape({pixels, image.size(2)}) : image;
  };
  if (weights.kernel == 1 && weights.size == ConvSize::kSame) {
    const Epilogue epilogue{
        .activation = Activation::kNone, .gate = {}, .residual = as_rows(added)};
    const DenseSegment segment{as_rows(x), &packed.taps, epilogue, as_rows(out)};
    return dense(ctx, state, {&segment, 1});
  }
  convolve_by_columns(ctx, state, x, weights, as_rows(added), as_rows(out));
}

}  // namespace flux::cuda
