#include <algorithm>
#include <vector>

#include "ops/cuda/cuda_backend.h"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/state.h"
#include "support/error.h"
#include "tensor/format.h"

/// Norms and element-wise ops: the tensors' addresses and strides, handed to the kernels.
namespace flux::cuda {
namespace {

NormRows norm_args(Context& ctx, const ConstTensor& x, const ConstTensor& weight, float eps,
                   const Tensor& out) {
  NormRows args{};
  args.x = address(ctx, x);
  args.x_stride = x.stride(0);
  args.out = address(ctx, out);
  args.out_stride = out.stride(0);
  args.rows = x.size(0);
  args.n = x.size(1);
  args.weight = optional_floats(ctx, weight);
  args.eps = eps;
  return args;
}

BinaryRows binary_args(Context& ctx, const ConstTensor& a, const ConstTensor& b,
                       const Tensor& out) {
  return {address(ctx, a),   a.stride(0),   address(ctx, b), b.stride(0),
          address(ctx, out), out.stride(0), out.size(0),     out.size(1)};
}

}  // namespace

void CudaBackend::layer_norm(Context& ctx, std::span<const LayerNormPart> parts) {
  for (size_t first = 0; first < parts.size(); first += kMaxNormSegments) {
    std::vector<NormRows> together;
    for (const auto& [x, params, out, out_scales] :
         parts.subspan(first, std::min(kMaxNormSegments, parts.size() - first))) {
      NormRows args = norm_args(ctx, x, params.weight, params.eps, out);
      args.centred = true;
      args.bias = optional_floats(ctx, params.bias);
      args.scale = optional_floats(ctx, params.scale);
      args.shift = optional_floats(ctx, params.shift);
      if (out_scales.scales.defined()) {
        args.scales = out_scales.scales.data<float>();
        args.norms = out_scales.norms.data<float>();
      }
      if (args.rows > 0) together.push_back(args);
    }
    const State& state = state_of(ctx);
    check_cuda(norm_rows(together, parts[0].x.dtype(), state.traits(), state.stream()),
               "layer_norm");
  }
}

void CudaBackend::rms_norm(Context& ctx, const ConstTensor& x, const ConstTensor& weight, float eps,
                           const Tensor& out) {
  if (x.size(0) == 0) return;
  const NormRows args = norm_args(ctx, x, weight, eps, out);
  const State& state = state_of(ctx);
  check_cuda(norm_rows({&args, 1}, x.dtype(), state.traits(), state.stream()), "rms_norm");
}

void CudaBackend::rms_norm_rope(Context& ctx, const Tensor& x, const ConstTensor& weight, float eps,
                                const RopeTable& rope) {
  check(x.size(2) <= kMaxRopeDim, ErrorCode::kUnsupported,
        "attention heads of {} elements: on a GPU they may have at most {}; use the device cpu",
        x.size(2), kMaxRopeDim);
  const NormRope args{.x = address(ctx, x),
                      .tokens = x.size(0),
                      .heads = x.size(1),
                      .dim = x.size(2),
                      .token_stride = x.stride(0),
                      .head_stride = x.stride(1),
                      .weight = optional_floats(ctx, weight),
                      .eps = eps,
                      .cos = optional_floats(ctx, rope.cos),
                      .sin = optional_floats(ctx, rope.sin)};
  check_cuda(norm_rope(args, x.dtype(), state_of(ctx).stream()), "rms_norm_rope");
}

void CudaBackend::rope_angles(Context& ctx, const ConstTensor& positions, const RopeAxes& axes,
                              const Tensor& cos, const Tensor& sin) {
  check(axes.dims.size() <= kMaxRopeAxes, ErrorCode::kUnsupported,
        "{} rotary axes: on a GPU at most {} are supported; use the device cpu", axes.dims.size(),
        kMaxRopeAxes);
  RopeAngles args{};
  args.theta = axes.theta;
  args.positions = optional_floats(ctx, positions);
  args.tokens = positions.size(0);
  args.axes = static_cast<int>(axes.dims.size());
  for (size_t i = 0; i < axes.dims.size(); ++i) args.dims[i] = axes.dims[i];
  args.pairs = cos.size(1);
  args.cos = static_cast<float*>(address(ctx, cos));
  args.sin = static_cast<float*>(address(ctx, sin));
  check_cuda(flux::cuda::rope_angles(args, state_of(ctx).stream()), "rope_angles");
}

void CudaBackend::group_norm(Context& ctx, const ConstTensor& x, const GroupNormParams& params,
                             const Tensor& out) {
  const Workspace::Scope scope(ctx.workspace());
  const int64_t channels = x.size(-1);
  const int64_t pixels = x.numel() / channels;
  const Tensor scratch =
      ctx.workspace().allocate({group_norm_scratch(pixels, params.groups)}, DType::kF32);
  const GroupNorm args{.x = address(ctx, x),
                       .out = address(ctx, out),
                       .pixels = pixels,
                       .channels = channels,
                       .groups = params.groups,
                       .weight = optional_floats(ctx, params.weight),
                       .bias = optional_floats(ctx, params.bias),
                       .eps = params.eps,
                       .activation = params.activation,
                       .scratch = scratch.data<float>()};
  check_cuda(flux::cuda::group_norm(args, x.dtype(), state_of(ctx).stream()), "group_norm");
}

void CudaBackend::activate(Context& ctx, const ConstTensor& x, Activation activation,
                           const Tensor& out) {
  if (x.numel() == 0) return;
  StoreRows args{};
  args.sums = address(ctx, x);
  args.rows = 1;
  args.columns = x.numel();
  args.activation = activation;
  args.out = address(ctx, out);
  check_cuda(store_rows(args, x.dtype(), state_of(ctx).stream()), "activate");
}

void CudaBackend::multiply(Context& ctx, const ConstTensor& a, const ConstTensor& b,
                           const Tensor& out) {
  const BinaryRows args = binary_args(ctx, a, b, out);
  check_cuda(binary_rows(Binary::kMultiply, args, out.dtype(), state_of(ctx).stream()), "multiply");
}

void CudaBackend::add(Context& ctx, const ConstTensor& a, const ConstTensor& b, const Tensor& out) {
  const BinaryRows args = binary_args(ctx, a, b, out);
  check_cuda(binary_rows(Binary::kAdd, args, out.dtype(), state_of(ctx).stream()), "add");
}

void CudaBackend::cast(Context& ctx, const ConstTensor& x, const Tensor& out) {
  check(x.dtype() != DType::kF64 && (out.dtype() == DType::kF32 || out.dtype() == DType::kBF16),
        ErrorCode::kUnsupported, "cast of {} to {} on a GPU: not supported", x, out);
  const bool rows = x.rank() == 2;
  check(rows || (x.is_contiguous() && out.is_contiguous()), ErrorCode::kInternal,
        "cast: {} must be rows or contiguous", x);
  const int64_t columns = rows ? x.size(1) : x.numel();
  const CopyRows args{address(ctx, x),      rows ? x.stride(0) : columns,
                      address(ctx, out),    rows ? out.stride(0) : columns,
                      rows ? x.size(0) : 1, columns};
  check_cuda(cast_rows(args, x.dtype(), out.dtype(), state_of(ctx).stream()), "cast");
}

}  // namespace flux::cuda
