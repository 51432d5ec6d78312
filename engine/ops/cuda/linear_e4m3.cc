#include "ops/cuda/linear_e4m3.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/cuda/weight_terms.h"
#include "ops/kernels.h"
#include "support/error.h"
#include "tensor/format.h"

namespace flux::cuda {
namespace {

/// Brings weights to the GPU and encodes them there, in scratch memory of the context.
class Packing {
 public:
  Packing(Context& ctx, Uploader& uploader, DType dtype)
      : ctx_(ctx), state_(state_of(ctx)), uploader_(uploader), dtype_(dtype) {}

  /// numbers: [rows, depth], scales: [rows]; raises `largest_norm`.
  void pack(const StoredTensor& weight, const Tensor& numbers, const Tensor& scales,
            float* largest_norm) {
    if (weight.encoding == Encoding::kF8E4M3) {
      keep(weight, numbers, scales, largest_norm);
    } else {
      encode(weight, numbers, scales, largest_norm);
    }
  }

 private:
  void upload(const StoredTensor& from, const Tensor& to) {
    uploader_.upload(from.data.is_contiguous() ? from : in_memory(from), to, ctx_.threads());
  }

  void keep(const StoredTensor& weight, const Tensor& numbers, const Tensor& scales,
            float* largest_norm) {
    upload(weight, numbers);
    const Tensor values = Tensor::allocate(scales.shape(), DType::kF32);
    for (int64_t i = 0; i < values.numel(); ++i) values.data<float>()[i] = weight.scale_of(i);
    copy(ctx_, values, scales);
    state_.wait_for_uploads(uploader_.count(), uploader_.done());
    const E4M3Norms args{.x = numbers.data<uint8_t>(),
                         .scales = scales.data<float>(),
                         .rows = numbers.size(0),
                         .columns = numbers.size(1),
                         .largest_norm = largest_norm};
    check_cuda(raise_norm(args, state_.stream()), "raise_norm");
  }

  void encode(const StoredTensor& weight, const Tensor& numbers, const Tensor& scales,
              float* largest_norm) {
    const Workspace::Scope scope(ctx_.workspace());
    const Tensor values = ctx_.workspace().allocate(weight.shape, dtype_);
    // The scratch memory may be what the weight before is still encoded from.
    uploader_.wait_for(state_.stream());
    if (weight.is_plain()) {
      upload(weight, values);
      state_.wait_for_uploads(uploader_.count(), uploader_.done());
    } else {
      EncodedRows rows{.encoding = weight.encoding,
                       .rows = weight.shape[0],
                       .bytes = ctx_.workspace().allocate(weight.data.shape(), DType::kU8),
                       .scales = {}};
      upload(weight, rows.bytes);
      state_.wait_for_uploads(uploader_.count(), uploader_.done());
      check_cuda(decode_rows(decoding_of(rows, values), dtype_, state_.stream()), "decode_rows");
    }
    const EncodeRows args{.x = values.raw(),
                          .x_stride = numbers.size(1),
                          .rows = numbers.size(0),
                          .columns = numbers.size(1),
                          .out = numbers.data<uint8_t>(),
                          .out_stride = numbers.size(1),
                          .scales = scales.data<float>(),
                          .largest_norm = largest_norm};
    check_cuda(encode_rows(args, dtype_, state_.stream()), "encode_rows");
  }

  Context& ctx_;
  State& state_;
  Uploader& uploader_;
  DType dtype_;
};

const DenseWeights& weights_of(const LinearPart& part) {
  return static_cast<const DenseWeights&>(*part.weights->packed);
}

/// x of T as e4m3, in scratch memory.
LinearPart with_encoded_x(Context& ctx, State& state, const LinearPart& part) {
  if (part.x.dtype() == DType::kU8) return part;
  LinearPart encoded = part;
  const Tensor numbers = ctx.workspace().allocate(part.x.shape(), DType::kU8);
  encoded.x_scales.scales = ctx.workspace().allocate({part.x.size(0)}, DType::kF32);
  const EncodeRows args{.x = address(ctx, part.x),
                        .x_stride = part.x.stride(0),
                        .rows = part.x.size(0),
                        .columns = part.x.size(1),
                        .out = numbers.data<uint8_t>(),
                        .out_stride = part.x.size(1),
                        .scales = encoded.x_scales.scales.data<float>()};
  check_cuda(encode_rows(args, part.x.dtype(), state.stream()), "encode_rows");
  encoded.x = numbers;
  return encoded;
}

HopperLinear::Scales scales_of(Context& ctx, const LinearPart& part) {
  const E4M3Weights& weights = weights_of(part).e4m3;
  const auto& norm = part.epilogue.norm;
  return {
      .x = optional_floats(ctx, part.x_scales.scales),
      .x_stride = part.x_scales.scales.numel() > 1 ? 1 : 0,
      .w = weights.scales.data<float>(),
      .x_norms = optional_floats(ctx, part.x_scales.norms),
      .w_bounds = weights.bounds.data<float>(),
      .least = optional_floats(ctx, part.epilogue.least_scale),
      .out = part.out_scales.scales.defined() ? part.out_scales.scales.data<float>() : nullptr,
      .others = norm && norm->others_scale.defined() ? norm->others_scale.data<float>() : nullptr};
}

/// Sends queries and keys where they are wanted as e4m3. The columns that are left are stored where
/// they would be if the others lay before them.
void encode_heads_of(const LinearPart& part, HopperLinear::Segment& segment) {
  const auto& norm = part.epilogue.norm;
  if (!norm || !norm->encoded) return;
  const HeadNorm::Encoded& encoded = *norm->encoded;
  segment.norm.encoded = encoded.numbers.data<uint8_t>();
  segment.norm.encodings[0] = 1.0f / encoded.q_scale;
  segment.norm.encodings[1] = 1.0f / encoded.k_scale;
  segment.out = static_cast<std::byte*>(segment.out) -
                encoded.numbers.size(1) * static_cast<int64_t>(size_of(part.out.dtype()));
}

/// Norms the heads and raises the scale of the other columns, in passes.
void finish_heads(Context& ctx, State& state, const LinearPart& part) {
  const HeadNorm& norm = *part.epilogue.norm;
  norm_heads(ctx, norm, part.out);
  if (!norm.others_scale.defined()) return;
  const int64_t first = (norm.q_heads + norm.k_heads) * norm.head_dim();
  const Tensor others = part.out.slice(1, first, part.out.size(1));
  const LargestRows args{.x = address(ctx, others),
                         .x_stride = others.stride(0),
                         .rows = others.size(0),
                         .columns = others.size(1),
                         .scale = norm.others_scale.data<float>()};
  check_cuda(raise_scale(args, state.stream()), "raise_scale");
}

/// An activation that the kernel has no epilogue for, in a pass over the result.
void activate_rows(State& state, const LinearPart& part) {
  const StoreRows rows{.sums = part.out.raw(),
                       .sums_stride = part.out.stride(0),
                       .rows = part.out.size(0),
                       .columns = part.out.size(1),
                       .bias = nullptr,
                       .activation = part.epilogue.activation,
                       .gate = nullptr,
                       .residual = nullptr,
                       .residual_stride = 0,
                       .out = part.out.raw(),
                       .out_stride = part.out.stride(0)};
  check_cuda(store_rows(rows, part.out.dtype(), state.stream()), "store_rows");
}

/// Up to kMaxLinearSegments parts with up to kMaxLinearTerms terms, none of them empty.
void run(Context& ctx, State& state, std::span<const LinearPart> parts) {
  const Workspace::Scope scope(ctx.workspace());
  const Epilogue& epilogue = parts[0].epilogue;
  const bool encodes = parts[0].out.dtype() == DType::kU8;
  // An activation whose result is T follows in a pass, with all that comes after it.
  const bool activates = epilogue.activation != Activation::kNone && !encodes;
  check(!activates || !epilogue.residual.defined(), ErrorCode::kInternal,
        "linear: an activation of e4m3 products goes with no residual");
  std::vector<LinearPart> encoded;
  for (const LinearPart& part : parts) encoded.push_back(with_encoded_x(ctx, state, part));
  const std::vector<PartChanges> changes = prepare_changes(ctx, state, encoded);
  std::vector<HopperLinear::Segment> segments;
  for (size_t i = 0; i < encoded.size(); ++i) {
    const LinearPart& own = encoded[i];
    const DenseWeights& weights = weights_of(own);
    segments.push_back(
        hopper_segment(ctx, own.x, weights, activates ? Epilogue{} : own.epilogue, own.out));
    segments.back().weights = weights.e4m3.numbers.raw();
    segments.back().scales = scales_of(ctx, own);
    encode_heads_of(own, segments.back());
    set_changes(changes[i], segments.back());
  }
  HopperLinear linear{.depth = parts[0].x.size(1),
                      .columns = parts[0].weights->out_features,
                      .e4m3 = true,
                      .gelu = encodes,
                      .segments = segments};
  set_heads(epilogue.norm, linear);
  const bool fused = hopper_linear_supports(linear);
  if (!fused) linear.q_columns = linear.k_columns = 0;
  const bool encodes_heads = epilogue.norm && epilogue.norm->encoded;
  check(fused || (!encodes_heads && hopper_linear_supports(linear)), ErrorCode::kInternal,
        "linear: {} to {} of e4m3 is not aligned as the kernel needs", parts[0].x, parts[0].out);
  check_cuda(hopper_linear(linear, state.traits(), state.stream()), "hopper_linear");
  for (const LinearPart& part : parts) {
    if (!fused) finish_heads(ctx, state, part);
    if (activates) activate_rows(state, part);
  }
}

}  // namespace

bool suits_e4m3(const GpuTraits& gpu, std::span<const StoredTensor> weights, DType dtype) {
  constexpr int64_t kUnit = 16;  // bytes that the copy engine's rows are multiples of
  int64_t columns = 0;
  for (const StoredTensor& weight : weights) columns += weight.shape[0];
  return gpu.hopper && dtype == DType::kBF16 && weights[0].shape[1] % kUnit == 0 &&
         columns % kUnit == 0;
}

std::shared_ptr<const PackedWeights> pack_e4m3(Context& ctx, Uploader& uploader,
                                               std::span<const StoredTensor> weights,
                                               std::span<const ConstTensor> biases, DType dtype) {
  auto packed = std::make_shared<DenseWeights>();
  packed->depth = weights[0].shape[1];
  for (const StoredTensor& weight : weights) packed->columns += weight.shape[0];
  set_bias(ctx, weights, biases, dtype, *packed);
  const Tensor stacked = stack_biases(weights, biases);
  const Tensor bounds = Tensor::allocate({2}, DType::kF32);
  bounds.data<float>()[0] = bounds.data<float>()[1] = 0.0f;
  for (int64_t i = 0; stacked.defined() && i < stacked.numel(); ++i) {
    const float bias = std::abs(round_to(dtype, stacked.data<float>()[i]));
    bounds.data<float>()[1] = std::max(bounds.data<float>()[1], bias);
  }
  packed->e4m3 = {new_tensor(ctx, {packed->columns, packed->depth}, DType::kU8),
                  new_tensor(ctx, {packed->columns}, DType::kF32),
                  new_tensor(ctx, {2}, DType::kF32)};
  copy(ctx, bounds, packed->e4m3.bounds);
  Packing packing(ctx, uploader, dtype);
  int64_t begin = 0;
  for (const StoredTensor& weight : weights) {
    const int64_t end = begin + weight.shape[0];
    packing.pack(weight, packed->e4m3.numbers.slice(0, begin, end),
                 packed->e4m3.scales.slice(0, begin, end), packed->e4m3.bounds.data<float>());
    begin = end;
  }
  return packed;
}

void linear_e4m3(Context& ctx, State& state, std::span<const LinearPart> parts) {
  std::vector<LinearPart> some;
  std::copy_if(parts.begin(), parts.end(), std::back_inserter(some),
               [](const LinearPart& part) { return part.x.size(0) > 0; });
  for (size_t begin = 0; begin < some.size();) {
    size_t count = 0;
    size_t terms = 0;
    do {
      terms += some[begin + count].terms.size();
      ++count;
    } while (begin + count < some.size() && count < kMaxLinearSegments &&
             terms + some[begin + count].terms.size() <= kMaxLinearTerms);
    run(ctx, state, std::span<const LinearPart>(some.data() + begin, count));
    begin += count;
  }
}

}  // namespace flux::cuda
