#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <array>
#include <map>
#include <string_view>

#include "ops/cuda/kernels/kernels.h"
#include "runtime/context.h"

namespace flux::cuda {

/// Throw for a failed call, naming it: kUnavailable where memory ran out, else kInternal.
[[noreturn, gnu::cold]] void fail_cuda(cudaError_t result, std::string_view call);
[[noreturn, gnu::cold]] void fail_cublas(cublasStatus_t status, std::string_view call);
inline void check_cuda(cudaError_t result, std::string_view call) {
  if (result != cudaSuccess) [[unlikely]]
    fail_cuda(result, call);
}
inline void check_cublas(cublasStatus_t status, std::string_view call) {
  if (status != CUBLAS_STATUS_SUCCESS) [[unlikely]]
    fail_cublas(status, call);
}

/// All that the plan of a product depends on, as numbers; see cublas.cc.
using ProductKey = std::array<int64_t, 20>;
/// cuBLASLt's description of a product and the algorithm that it chose.
struct ProductPlan {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t w, x, added, out;
  cublasLtMatmulAlgo_t algorithm;
};

/// The state of a context on its device. Ops of one context come from one thread at a time.
class State final : public DeviceState {
 public:
  State(int device, const GpuTraits& traits);
  ~State() override;
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  int device() const { return device_; }
  cudaStream_t stream() const { return stream_; }
  /// Made on first use: not every context multiplies.
  cublasLtHandle_t cublas();
  const GpuTraits& traits() const { return traits_; }

  static constexpr size_t kProductBytes = size_t{32} << 20;
  /// kProductBytes of scratch for cuBLASLt.
  void* product_workspace();

  /// Plans by the numbers that describe a product.
  std::map<ProductKey, ProductPlan>& product_plans() { return product_plans_; }

  /// Makes the stream wait for weights that are still on their way, if there are new ones since the
  /// last call: `uploads` counts them.
  void wait_for_uploads(uint64_t uploads, cudaEvent_t done);

 private:
  int device_;
  GpuTraits traits_;
  cudaStream_t stream_ = nullptr;
  cublasLtHandle_t cublas_ = nullptr;
  void* product_workspace_ = nullptr;
  std::map<ProductKey, ProductPlan> product_plans_;
  uint64_t uploads_seen_ = 0;
};

/// The state of a context, its device made the calling thread's current one.
State& state_of(Context& ctx);

/// Address of a tensor that must lie in the context's device memory.
const void* address(const Context& ctx, const ConstTensor& tensor);
void* address(const Context& ctx, const Tensor& tensor);
/// The same for optional tensors: null where left out.
const void* optional_address(const Context& ctx, const ConstTensor& tensor);
const float* optional_floats(const Context& ctx, const ConstTensor& tensor);

}  // namespace flux::cuda
