#include "ops/cuda/cuda_backend.h"
#include "ops/cuda/dense.h"

namespace flux::cuda {

std::shared_ptr<const PackedWeights> CudaBackend::pack_linear(Context& ctx,
                                                              std::span<const ConstTensor> weights,
                                                              std::span<const ConstTensor> biases,
                                                              DType dtype) {
  auto packed = std::make_shared<DenseWeights>();
  int64_t columns = 0;
  for (const ConstTensor& weight : weights) columns += weight.size(0);
  packed->weight = new_tensor(ctx, {columns, weights[0].size(1)}, dtype);
  int64_t begin = 0;
  for (const ConstTensor& weight : weights) {
    const int64_t end = begin + weight.size(0);
    const ConstTensor source = weight.is_contiguous() ? weight : to_dtype(weight, weight.dtype());
    uploader_.upload(source, packed->weight.slice(0, begin, end), ctx.threads());
    begin = end;
  }
  set_bias(ctx, weights, biases, *packed);
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
