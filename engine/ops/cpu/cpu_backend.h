#pragma once

#include "ops/backend.h"

namespace flux::cpu {

/// The ops on the host. Each member is in the file named after it; products of bf16 and some
/// convolutions are oneDNN's (onednn.h), the rest are loops that the compiler vectorises.
class CpuBackend : public Backend {
 public:
  Device device() const override;
  std::shared_ptr<std::byte> allocate(size_t bytes) const override;
  bool supports(DType dtype) const override;

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
};

}  // namespace flux::cpu
