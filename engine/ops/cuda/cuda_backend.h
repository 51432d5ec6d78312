#pragma once

#include <atomic>
#include <limits>

#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/uploader.h"
#include "ops/kernels.h"

namespace flux::cuda {

/// The ops on one NVIDIA GPU. Every context has a stream of its own, in which its ops follow each
/// other; the host waits only where results come back to it. Matrix products are cuBLASLt's
/// (cublas.h), the rest are our kernels (kernels/).
class CudaBackend final : public Backend {
 public:
  /// Throws kUnsupported for a GPU that this build has no kernels for.
  explicit CudaBackend(int index);

  Device device() const override { return {Device::Kind::kCuda, index_}; }
  std::shared_ptr<std::byte> allocate(size_t bytes) const override;
  void limit_memory(int64_t bytes) override { limit_ = bytes; }
  int64_t available_bytes() const override;
  std::unique_ptr<DeviceState> make_state() override;
  void finish(Context& ctx) override;
  std::shared_ptr<const Fence> make_fence(Context& ctx) override;
  void wait_for(Context& ctx, const Fence& fence) override;
  void copy(Context& ctx, const ConstTensor& x, const Tensor& out) override;
  bool has_profiler() const override;
  void push_range(const char* name) override;
  void pop_range() override;
  bool supports(DType dtype) const override;
  Support support(Quantization quantization, DType dtype) const override;
  int64_t useful_tokens() const override;
  bool attends_in_e4m3(DType dtype, int64_t head_dim) const override;
  bool encodes_heads(int64_t head_dim) const override;

  FLUX_OPS(FLUX_OVERRIDE_OP)

 private:
  int index_;
  GpuTraits traits_;
  std::atomic<int64_t> limit_{std::numeric_limits<int64_t>::max()};
  mutable std::atomic<int64_t> held_{0};  // of what allocate() gave
  Uploader uploader_;
};

}  // namespace flux::cuda
