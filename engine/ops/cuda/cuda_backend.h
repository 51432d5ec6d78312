#pragma once

#include <atomic>
#include <limits>

#include "ops/backend.h"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/uploader.h"

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
  bool supports(DType dtype) const override;
  int64_t useful_tokens() const override;

  std::shared_ptr<const PackedWeights> pack_linear(Context& ctx, std::span<const Tensor> weights,
                                                   std::span<const Tensor> biases,
                                                   DType dtype) override;
  std::shared_ptr<const PackedWeights> pack_conv2d(Context& ctx, const Tensor& weight,
                                                   const Tensor& bias, DType dtype,
                                                   bool upsample) override;
  void linear(Context& ctx, std::span<const LinearPart> parts) override;
  void conv2d(Context& ctx, const Tensor& x, const Conv2dWeights& weights, const Tensor& residual,
              const Tensor& out) override;
  void layer_norm(Context& ctx, std::span<const LayerNormPart> parts) override;
  void rms_norm(Context& ctx, const Tensor& x, const Tensor& weight, float eps,
                const Tensor& out) override;
  void rms_norm_rope(Context& ctx, const Tensor& x, const Tensor& weight, float eps,
                     const RopeTable& rope) override;
  void attention(Context& ctx, std::span<const AttentionPart> parts,
                 const AttentionOptions& options) override;
  void group_norm(Context& ctx, const Tensor& x, const GroupNormParams& params,
                  const Tensor& out) override;
  void activate(Context& ctx, const Tensor& x, Activation activation, const Tensor& out) override;
  void multiply(Context& ctx, const Tensor& a, const Tensor& b, const Tensor& out) override;
  void add(Context& ctx, const Tensor& a, const Tensor& b, const Tensor& out) override;
  void cast(Context& ctx, const Tensor& x, const Tensor& out) override;
  void copy(Context& ctx, const Tensor& x, const Tensor& out) override;
  void transpose(Context& ctx, const Tensor& x, const Tensor& out) override;
  void rope_angles(Context& ctx, const Tensor& positions, std::span<const int64_t> axes_dims,
                   const RopeTable& out) override;
  void euler_step(Context& ctx, const Tensor& latents, const EulerStep& step) override;
  void unpack_tokens(Context& ctx, const Tensor& packed, float divisor, float shift,
                     const Tensor& out) override;
  void to_bytes(Context& ctx, const Tensor& x, const Tensor& out) override;
  void embedding(Context& ctx, const Tensor& table, std::span<const int32_t> ids,
                 const Tensor& out) override;

 private:
  int index_;
  GpuTraits traits_;
  std::atomic<int64_t> limit_{std::numeric_limits<int64_t>::max()};
  mutable std::atomic<int64_t> held_{0};  // of what allocate() gave
  Uploader uploader_;
};

}  // namespace flux::cuda
