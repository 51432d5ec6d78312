#include <algorithm>

#include "ops/cuda/cuda_backend.h"
#include "ops/cuda/dense.h"

namespace flux::cuda {

std::shared_ptr<const PackedWeights> CudaBackend::pack_linear(Context& ctx,
                                                              std::span<const StoredTensor> weights,
                                                              std::span<const ConstTensor> biases,
                                                              DType dtype) {
  auto packed = std::make_shared<DenseWeights>();
  packed->depth = weights[0].shape[1];
  for (const StoredTensor& weight : weights) packed->columns += weight.shape[0];
  const bool plain = std::all_of(weights.begin(), weights.end(),
                                 [](const StoredTensor& weight) { return weight.is_plain(); });
  if (plain) packed->weight = new_tensor(ctx, {packed->columns, packed->depth}, dtype);
  int64_t begin = 0;
  for (const StoredTensor& weight : weights) {
    const int64_t end = begin + weight.shape[0];
    const ConstTensor& data = weight.data;
    const ConstTensor source = data.is_contiguous() ? data : to_dtype(data, data.dtype());
    if (plain) {
      uploader_.upload(source, packed->weight.slice(0, begin, end), ctx.threads());
    } else {
      EncodedRows rows{
          .encoding = weight.encoding,
          .rows = weight.shape[0],
          .bytes = new_tensor(ctx, data.shape(), weight.is_plain() ? dtype : DType::kU8),
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

void CudaBackend::linear(Context& ctx, std::span<const LinearPart> parts) {
  State& state = state_of(ctx);
  state.wait_for_uploads(uploader_.count(), uploader_.done());
  std::vector<DenseSegment> segments;
  for (const LinearPart& part : parts) {
    if (part.x.size(0) == 0) continue;
    segments.push_back({part.x, static_cast<const DenseWeights*>(part.weights->packed.get()),
                        part.epilogue, part.out});
  }
  dense(ctx, state, segments);
}

}  // namespace flux::cuda
