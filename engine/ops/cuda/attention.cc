#include <algorithm>
#include <array>
#include <vector>

#include "ops/cuda/cublas.h"
#include "ops/cuda/cuda_backend.h"
#include "ops/cuda/kernels/kernels.h"
#include "support/error.h"
#include "support/integer.h"
#include "tensor/format.h"

namespace flux::cuda {
namespace {

static_assert(AttentionOptions::kLn2 * kLog2E == 1.0f, "exponents of two need no factor");

/// Number of scores that are stored at a time.
constexpr int64_t kScores = int64_t{32} << 20;

/// Whether the tensors are bf16 in vectors of 16 bytes.
bool are_aligned(std::initializer_list<const ConstTensor*> tensors) {
  return std::all_of(tensors.begin(), tensors.end(), [](const ConstTensor* tensor) {
    return tensor->dtype() == DType::kBF16 &&
           reinterpret_cast<uintptr_t>(tensor->raw()) % 16 == 0 && tensor->stride(0) % 8 == 0 &&
           tensor->stride(1) % 8 == 0;
  });
}

FlashAttention flash_args(Context& ctx, const ConstTensor& q, const ConstTensor& k,
                          const ConstTensor& v, const AttentionOptions& options,
                          const Tensor& out) {
  std::optional<float> bound = options.bound;
  if (bound && options.base == ScoreBase::kTwo) bound = AttentionOptions::kLn2 * *bound;
  return {.q = address(ctx, q),
          .k = address(ctx, k),
          .v = address(ctx, v),
          .out = address(ctx, out),
          .q_strides = {q.stride(0), q.stride(1)},
          .k_strides = {k.stride(0), k.stride(1)},
          .v_strides = {v.stride(0), v.stride(1)},
          .out_strides = {out.stride(0), out.stride(1)},
          .q_tokens = q.size(0),
          .k_tokens = k.size(0),
          .heads = q.size(1),
          .dim = q.size(2),
          .scale = options.natural_scale(),
          .causal = options.causal,
          .bias = optional_floats(ctx, options.relative_bias),
          .base = options.base,
          .bound = bound};
}

/// Attention that stores the scores of some query rows at a time, for f32 and unusual head sizes.
class StoredAttention {
 public:
  StoredAttention(Context& ctx, State& state, const ConstTensor& q, const ConstTensor& k,
                  const ConstTensor& v, const AttentionOptions& options, const Tensor& out)
      : ctx_(ctx), state_(state), q_(q), k_(k), v_(v), options_(options), out_(out) {
    constexpr int64_t kAligned = 8;
    stride_ = round_up(k.size(0), kAligned);
    const int64_t heads = q.size(1);
    rows_ = std::clamp<int64_t>(kScores / (heads * stride_), 1, std::max<int64_t>(1, q.size(0)));
    scores_ = ctx.workspace().allocate({heads, rows_, stride_}, DType::kF32);
    weights_ = ctx.workspace().allocate({heads, rows_, stride_}, q.dtype());
  }

  void run() const {
    for (int64_t first = 0; first < q_.size(0); first += rows_) {
      run_rows(first, std::min(rows_, q_.size(0) - first));
    }
  }

 private:
  void run_rows(int64_t first, int64_t rows) const {
    const int64_t heads = q_.size(1);
    const ConstTensor q = q_.slice(0, first, first + rows);
    Product scores;
    scores.dtype = q.dtype();
    scores.rows = rows;
    scores.columns = k_.size(0);
    scores.depth = q.size(2);
    scores.x = address(ctx_, q);
    scores.x_stride = q.stride(0);
    scores.w = address(ctx_, k_);
    scores.w_stride = k_.stride(0);
    scores.out = scores_.raw();
    scores.out_stride = stride_;
    scores.batch = heads;
    scores.x_batch_stride = q.stride(1);
    scores.w_batch_stride = k_.stride(1);
    scores.out_batch_stride = rows * stride_;
    multiply(state_, scores);

    const SoftmaxRows softmax{.scores = scores_.data<float>(),
                              .out = weights_.raw(),
                              .row_stride = stride_,
                              .heads = heads,
                              .q_rows = rows,
                              .first_q = first,
                              .q_tokens = q_.size(0),
                              .k_tokens = k_.size(0),
                              .scale = options_.natural_scale(),
                              .causal = options_.causal,
                              .bias = optional_floats(ctx_, options_.relative_bias)};
    check_cuda(softmax_rows(softmax, q.dtype(), state_.stream()), "softmax_rows");

    const Tensor out = out_.slice(0, first, first + rows);
    Product values;
    values.dtype = q.dtype();
    values.out_dtype = q.dtype();
    values.rows = rows;
    values.columns = v_.size(2);
    values.depth = v_.size(0);
    values.x = weights_.raw();
    values.x_stride = stride_;
    values.w = address(ctx_, v_);
    values.w_stride = v_.stride(0);
    values.w_by_depth = true;
    values.out = address(ctx_, out);
    values.out_stride = out.stride(0);
    values.batch = heads;
    values.x_batch_stride = rows * stride_;
    values.w_batch_stride = v_.stride(1);
    values.out_batch_stride = out.stride(1);
    multiply(state_, values);
  }

  Context& ctx_;
  State& state_;
  const ConstTensor& q_;
  const ConstTensor& k_;
  const ConstTensor& v_;
  const AttentionOptions& options_;
  const Tensor& out_;
  int64_t stride_ = 0;  // between rows of scores
  int64_t rows_ = 0;    // query rows at a time
  Tensor scores_;       // [heads, rows, stride], f32
  Tensor weights_;      // the same, T
};

void attend(Context& ctx, State& state, const AttentionPart& part,
            const AttentionOptions& options) {
  const Workspace::Scope scope(ctx.workspace());
  const auto& [q, k, v, result, out_scales, v_scale] = part;
  const Tensor out =
      out_scales.defined() ? ctx.workspace().allocate(result.shape(), q.dtype()) : result;
  if (flash_supports(q.size(2)) && are_aligned({&q, &k, &v, &out})) {
    check_cuda(flash_attention(flash_args(ctx, q, k, v, options, out), state.stream()),
               "flash_attention");
  } else {
    StoredAttention(ctx, state, q, k, v, options, out).run();
  }
  if (!out_scales.defined()) return;
  const int64_t columns = out.size(1) * out.size(2);
  const EncodeRows args{.x = out.raw(),
                        .x_stride = columns,
                        .rows = out.size(0),
                        .columns = columns,
                        .out = result.data<uint8_t>(),
                        .out_stride = result.stride(0),
                        .scales = nullptr,
                        .given = out_scales.data<float>(),
                        .given_stride = out_scales.numel() > 1 ? 1 : 0};
  check_cuda(encode_rows(args, out.dtype(), state.stream()), "encode_rows");
}

/// The scale of values, found where it is not given.
const float* value_scale(Context& ctx, State& state, const AttentionPart& part) {
  if (part.v_scale.defined()) return part.v_scale.data<float>();
  const Tensor scale = ctx.workspace().allocate({1}, DType::kF32);
  check_cuda(cudaMemsetAsync(scale.raw(), 0, sizeof(float), state.stream()), "cudaMemsetAsync");
  for (int64_t head = 0; head < part.v.size(1); ++head) {
    const ConstTensor rows = part.v.slice(1, head, head + 1);
    const LargestRows args{.x = address(ctx, rows),
                           .x_stride = rows.stride(0),
                           .rows = rows.size(0),
                           .columns = rows.size(2),
                           .scale = scale.data<float>()};
    check_cuda(raise_scale(args, state.stream()), "raise_scale");
  }
  return scale.data<float>();
}

/// Queries or keys as e4m3: as they are, or encoded in scratch memory.
ConstTensor encoded_heads(Context& ctx, State& state, const ConstTensor& x, float scale) {
  if (x.dtype() == DType::kU8) return x;
  const Tensor out = ctx.workspace().allocate({x.size(0), x.size(1), kEncodedDim}, DType::kU8);
  const EncodeHeads args{.x = address(ctx, x),
                         .strides = {x.stride(0), x.stride(1)},
                         .tokens = x.size(0),
                         .heads = x.size(1),
                         .dim = x.size(2),
                         .scale = scale,
                         .out = out.data<uint8_t>()};
  check_cuda(encode_heads(args, state.stream()), "encode_heads");
  return out;
}

/// Puts e4m3 in scratch memory in the place of q, k and v.
void encode(Context& ctx, State& state, const AttentionPart& part,
            const AttentionOptions::E4M3& scales, FlashAttention& args) {
  const int64_t keys = encoded_keys(args.k_tokens);
  args.v_scale = value_scale(ctx, state, part);
  const EncodeValues values{
      .x = args.v,
      .strides = {args.v_strides[0], args.v_strides[1]},
      .tokens = args.k_tokens,
      .heads = args.heads,
      .dim = args.dim,
      .scale = args.v_scale,
      .out = ctx.workspace().allocate({args.heads, kEncodedDim, keys}, DType::kU8).data<uint8_t>(),
      .keys = keys};
  check_cuda(encode_values(values, state.stream()), "encode_values");
  args.v = values.out;
  args.v_strides[0] = keys;
  args.v_strides[1] = kEncodedDim * keys;
  const auto replace = [&](const ConstTensor& x, float scale, const void*& address,
                           int64_t(&strides)[2]) {
    const ConstTensor encoded = encoded_heads(ctx, state, x, scale);
    address = encoded.raw();
    strides[0] = encoded.stride(0);
    strides[1] = encoded.stride(1);
  };
  replace(part.q, scales.q_scale, args.q, args.q_strides);
  replace(part.k, scales.k_scale, args.k, args.k_strides);
  args.scale *= scales.q_scale * scales.k_scale;
}

/// The part for hopper_attention(); nothing where that does not support it.
std::optional<FlashAttention> hopper_args(Context& ctx, State& state, const AttentionPart& part,
                                          const AttentionOptions& options) {
  const auto& [q, k, v, out, out_scales, v_scale] = part;
  const bool aligned = are_aligned({&v}) && (q.dtype() == DType::kU8 || are_aligned({&q, &k})) &&
                       (out_scales.defined() || are_aligned({&out}));
  if (!state.traits().hopper || !aligned) return {};
  FlashAttention args = flash_args(ctx, q, k, v, options, out);
  if (out_scales.defined()) {
    args.out_scales = out_scales.data<float>();
    args.out_scales_stride = out_scales.numel() > 1 ? 1 : 0;
  }
  args.e4m3 = options.e4m3.has_value();
  if (!hopper_attention_supports(args)) return {};
  if (args.e4m3) encode(ctx, state, part, *options.e4m3, args);
  return args;
}

}  // namespace

bool CudaBackend::encodes_heads(int64_t head_dim) const {
  return traits_.hopper && head_dim == kEncodedDim;
}

bool CudaBackend::attends_in_e4m3(DType dtype, int64_t head_dim) const {
  return traits_.hopper && dtype == DType::kBF16 && head_dim % 8 == 0 && head_dim <= kEncodedDim;
}

void CudaBackend::attention(Context& ctx, std::span<const AttentionPart> parts,
                            const AttentionOptions& options) {
  const Workspace::Scope scope(ctx.workspace());
  State& state = state_of(ctx);
  std::vector<FlashAttention> on_hopper;
  const auto launch = [&] {
    if (on_hopper.empty()) return;
    check_cuda(hopper_attention(on_hopper, state.traits().multiprocessors, state.stream()),
               "hopper_attention");
    on_hopper.clear();
  };
  for (const AttentionPart& part : parts) {
    if (part.q.size(0) == 0) continue;
    if (const auto args = hopper_args(ctx, state, part, options)) {
      on_hopper.push_back(*args);
      if (on_hopper.size() == kMaxAttentionSegments) launch();
    } else {
      check(part.q.dtype() != DType::kU8, ErrorCode::kInternal,
            "attention: {} of e4m3 is not what the kernel takes", part.q);
      attend(ctx, state, part, options);
    }
  }
  launch();
}

}  // namespace flux::cuda
