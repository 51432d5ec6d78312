#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <map>
#include <memory>
#include <vector>

#include "ops/context.h"
#include "ops/cuda/kernels/kernels.h"
#include "support/error.h"

namespace flux::cuda {

/// Throws for a failed call: kUnavailable where memory ran out, else kInternal naming the call.
void check_cuda(cudaError_t result, const char* call);
/// Throws when the kernels of an op could not be launched.
void check_launch(const char* op);

/// A matrix product's algorithm, by what the choice may depend on.
struct ProductPlan {
  cublasLtMatmulAlgo_t algorithm;
  bool found = false;
};

/// What a context has on its device. Ops of one context come from one thread at a time.
class State final : public DeviceState {
 public:
  explicit State(int device);
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
  std::map<std::vector<int64_t>, ProductPlan>& plans() { return plans_; }

  /// Makes the stream wait for weights that are still on their way, if there are new ones since the
  /// last call: `uploads` counts them.
  void wait_for_uploads(uint64_t uploads, cudaEvent_t done);

 private:
  int device_;
  GpuTraits traits_;
  cudaStream_t stream_ = nullptr;
  cublasLtHandle_t cublas_ = nullptr;
  void* product_workspace_ = nullptr;
  std::map<std::vector<int64_t>, ProductPlan> plans_;
  uint64_t uploads_seen_ = 0;
};

/// The state of a context, its device made the calling thread's current one.
State& state_of(Context& ctx);

/// Address of a tensor that must lie in the context's device memory.
void* address(const Context& ctx, const Tensor& tensor);
/// The same for optional tensors: null where left out.
void* optional_address(const Context& ctx, const Tensor& tensor);
const float* optional_floats(const Context& ctx, const Tensor& tensor);

}  // namespace flux::cuda
