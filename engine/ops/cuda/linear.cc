#include <algorithm>
#include <list>
#include <vector>

#include "ops/cuda/cuda_backend.h"
#include "ops/cuda/dense.h"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/linear_e4m3.h"
#include "ops/cuda/weight_terms.h"
#include "support/error.h"

namespace flux::cuda {
namespace {

/// Values of a row that decode_rows() decodes together: rows that are no multiple are decoded when
/// they are packed.
constexpr int64_t kDecodedTogether = 8;

/// The same weights in T, in scratch memory.
DenseWeights decode(Context& ctx, State& state, const DenseWeights& weights, DType dtype) {
  DenseWeights result;
  result.weight = ctx.workspace().allocate({weights.columns, weights.depth}, dtype);
  result.bias = weights.bias;
  result.rounded_bias = weights.rounded_bias;
  int64_t begin = 0;
  for (const EncodedRows& rows : weights.encoded) {
    const Tensor out = result.weight.slice(0, begin, begin + rows.rows);
    begin += rows.rows;
    if (rows.encoding == Encoding::kPlain) {
      const CopyRows args{rows.bytes.raw(), weights.depth, out.raw(),
                          weights.depth,    rows.rows,     weights.depth};
      check_cuda(cast_rows(args, dtype, dtype, state.stream()), "cast_rows");
      continue;
    }
    check_cuda(decode_rows(decoding_of(rows, out), dtype, state.stream()), "decode_rows");
  }
  return result;
}

}  // namespace

std::shared_ptr<const PackedWeights> CudaBackend::pack_linear(Context& ctx,
                                                              std::span<const StoredTensor> weights,
                                                              std::span<const ConstTensor> biases,
                                                              DType dtype,
                                                              Quantization quantization) {
  if (quantization == Quantization::kFp8) {
    if (suits_e4m3(traits_, weights, dtype)) {
      return pack_e4m3(ctx, uploader_, weights, biases, dtype);
    }
    const std::vector<StoredTensor> encoded = encode_e4m3(weights, dtype, ctx.threads());
    return pack_linear(ctx, encoded, biases, dtype, Quantization::kNone);
  }
  const bool plain = std::all_of(weights.begin(), weights.end(),
                                 [](const StoredTensor& weight) { return weight.is_plain(); });
  if (!plain && weights[0].shape[1] % kDecodedTogether != 0) {
    std::vector<StoredTensor> decoded;
    for (const StoredTensor& weight : weights) decoded.emplace_back(flux::decode(weight, dtype));
    return pack_linear(ctx, decoded, biases, dtype, Quantization::kNone);
  }
  auto packed = std::make_shared<DenseWeights>();
  packed->depth = weights[0].shape[1];
  for (const StoredTensor& weight : weights) packed->columns += weight.shape[0];
  if (plain) packed->weight = new_tensor(ctx, {packed->columns, packed->depth}, dtype);
  int64_t begin = 0;
  for (const StoredTensor& weight : weights) {
    const int64_t end = begin + weight.shape[0];
    const StoredTensor source = weight.data.is_contiguous() ? weight : in_memory(weight);
    if (plain) {
      uploader_.upload(source, packed->weight.slice(0, begin, end), ctx.threads());
    } else {
      EncodedRows rows{
          .encoding = weight.encoding,
          .rows = weight.shape[0],
          .bytes = new_tensor(ctx, source.data.shape(), weight.is_plain() ? dtype : DType::kU8),
          .scales = {}};
      uploader_.upload(source, rows.bytes, ctx.threads());
      if (weight.scales.defined()) rows.scales = to_device(ctx, weight.scales);
      packed->encoded.push_back(std::move(rows));
    }
    begin = end;
  }
  set_bias(ctx, weights, biases, dtype, *packed);
  return packed;
}

std::shared_ptr<const PackedWeights> CudaBackend::pack_up(Context& ctx, const ConstTensor& up,
                                                          const ConstTensor& gains,
                                                          int64_t /*begin*/, DType dtype) {
  return pack_up_half(ctx, up, gains, dtype);
}

void CudaBackend::linear(Context& ctx, std::span<const LinearPart> parts) {
  State& state = state_of(ctx);
  state.wait_for_uploads(uploader_.count(), uploader_.done());
  if (parts[0].weights->takes_e4m3()) return linear_e4m3(ctx, state, parts);
  // Decoded weights are there until the product has been launched; the stream keeps its order.
  const Workspace::Scope scope(ctx.workspace());
  const std::vector<PartChanges> changes = prepare_changes(ctx, state, parts);
  std::list<DenseWeights> decoded;
  std::vector<DenseSegment> segments;
  for (size_t i = 0; i < parts.size(); ++i) {
    const LinearPart& part = parts[i];
    if (part.x.size(0) == 0) continue;
    const auto* weights = static_cast<const DenseWeights*>(part.weights->packed.get());
    if (!weights->encoded.empty()) {
      weights = &decoded.emplace_back(decode(ctx, state, *weights, part.x.dtype()));
    }
    segments.push_back(
        {part.x, weights, part.epilogue, part.out, changes[i].any() ? &changes[i] : nullptr});
  }
  dense(ctx, state, segments);
}

}  // namespace flux::cuda
