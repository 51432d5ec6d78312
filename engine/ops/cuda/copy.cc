#include <cstring>

#include "ops/cuda/cuda_backend.h"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/state.h"

namespace flux::cuda {

void CudaBackend::finish(Context& ctx) {
  check_cuda(cudaStreamSynchronize(state_of(ctx).stream()), "the computation");
}

void CudaBackend::copy(Context& ctx, const ConstTensor& x, const Tensor& out) {
  State& state = state_of(ctx);
  const auto bytes = static_cast<size_t>(x.bytes());
  if (x.device().is_cpu() && out.device().is_cpu()) {
    std::memcpy(out.raw(), x.raw(), bytes);
    return;
  }
  // Pageable host memory has been read when the call returns.
  check_cuda(cudaMemcpyAsync(out.raw(), x.raw(), bytes, cudaMemcpyDefault, state.stream()),
             "cudaMemcpyAsync");
  const Device here = ctx.device();
  const bool from_elsewhere = !x.device().is_cpu() && x.device() != here;
  if (from_elsewhere || out.device() != here) finish(ctx);
}

void CudaBackend::transpose(Context& ctx, const ConstTensor& x, const Tensor& out) {
  check_cuda(flux::cuda::transpose(address(ctx, x), x.size(0), x.size(1), x.dtype(),
                                   address(ctx, out), out.dtype(), state_of(ctx).stream()),
             "transpose");
}

// The table stays in host memory: a few hundred rows are picked there and brought over.
void CudaBackend::embedding(Context& ctx, const StoredTensor& table, std::span<const int32_t> ids,
                            const Tensor& out) {
  const Tensor rows = Tensor::allocate(out.shape(), out.dtype());
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto row = static_cast<int64_t>(i);
    decode_rows(table, ids[i], ids[i] + 1, rows.slice(0, row, row + 1));
  }
  copy(ctx, rows, out);
}

}  // namespace flux::cuda
