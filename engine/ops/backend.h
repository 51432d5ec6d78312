#pragma once

#include <cstddef>
#include <limits>
#include <string_view>

#include "ops/ops.h"

namespace flux {

/// The kernels of one device. ops.h is the way to call them: it checks the arguments first, so
/// implementations do not. One Backend serves all contexts of its device and is thread-safe.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual Device device() const = 0;
  /// Memory of the device, aligned to 64 bytes; null when there is not as much.
  virtual std::shared_ptr<std::byte> allocate(size_t bytes) const = 0;
  /// From now on allocate() gives nothing beyond `bytes` in all, which is at least 0; what is held
  /// already stays. Throws kUnsupported where memory cannot be limited.
  virtual void limit_memory(int64_t bytes);
  /// What allocate() could give now, about.
  virtual int64_t available_bytes() const { return std::numeric_limits<int64_t>::max(); }
  /// What it wants to keep for each context.
  virtual std::unique_ptr<DeviceState> make_state() { return nullptr; }
  /// Waits for what the context's ops began; nothing where they end before they return.
  virtual void finish(Context& /*ctx*/) {}
  /// Null where ops end before they return.
  virtual std::shared_ptr<const Fence> make_fence(Context& /*ctx*/) { return nullptr; }
  /// `fence` is of a backend of the same kind of device.
  virtual void wait_for(Context& /*ctx*/, const Fence& /*fence*/) {}
  /// Whether activations and weights can be `dtype` here.
  virtual bool supports(DType dtype) const = 0;
  /// Up to how many tokens several sequences gain from being computed together; 0: they never do.
  virtual int64_t useful_tokens() const { return 0; }

  virtual std::shared_ptr<const PackedWeights> pack_linear(Context& ctx,
                                                           std::span<const Tensor> weights,
                                                           std::span<const Tensor> biases,
                                                           DType dtype) = 0;
  virtual std::shared_ptr<const PackedWeights> pack_conv2d(Context& ctx, const Tensor& weight,
                                                           const Tensor& bias, DType dtype,
                                                           bool upsample) = 0;
  virtual void linear(Context& ctx, std::span<const LinearPart> parts) = 0;
  virtual void conv2d(Context& ctx, const Tensor& x, const Conv2dWeights& weights,
                      const Tensor& residual, const Tensor& out) = 0;
  virtual void layer_norm(Context& ctx, std::span<const LayerNormPart> parts) = 0;
  virtual void rms_norm(Context& ctx, const Tensor& x, const Tensor& weight, float eps,
                        const Tensor& out) = 0;
  virtual void rms_norm_rope(Context& ctx, const Tensor& x, const Tensor& weight, float eps,
                             const RopeTable& rope) = 0;
  virtual void attention(Context& ctx, std::span<const AttentionPart> parts,
                         const AttentionOptions& options) = 0;
  virtual void group_norm(Context& ctx, const Tensor& x, const GroupNormParams& params,
                          const Tensor& out) = 0;
  virtual void activate(Context& ctx, const Tensor& x, Activation activation,
                        const Tensor& out) = 0;
  virtual void multiply(Context& ctx, const Tensor& a, const Tensor& b, const Tensor& out) = 0;
  virtual void add(Context& ctx, const Tensor& a, const Tensor& b, const Tensor& out) = 0;
  virtual void cast(Context& ctx, const Tensor& x, const Tensor& out) = 0;
  virtual void copy(Context& ctx, const Tensor& x, const Tensor& out) = 0;
  virtual void transpose(Context& ctx, const Tensor& x, const Tensor& out) = 0;
  virtual void rope_angles(Context& ctx, const Tensor& positions,
                           std::span<const int64_t> axes_dims, const RopeTable& out) = 0;
  virtual void euler_step(Context& ctx, const Tensor& latents, const EulerStep& step) = 0;
  virtual void unpack_tokens(Context& ctx, const Tensor& packed, float divisor, float shift,
                             const Tensor& out) = 0;
  virtual void to_bytes(Context& ctx, const Tensor& x, const Tensor& out) = 0;
  virtual void embedding(Context& ctx, const Tensor& table, std::span<const int32_t> ids,
                         const Tensor& out) = 0;
};

/// Throws kUnavailable: the backend has no `bytes` for `what`.
[[noreturn]] void fail_out_of_memory(const Backend& backend, size_t bytes, std::string_view what);

/// `norm` of a linear's result in passes of their own, for a backend that has nothing better.
void norm_heads(Context& ctx, const HeadNorm& norm, const Tensor& out);

/// The backend of `device`, made on first use and kept for the life of the process.
/// Throws kUnsupported for a device this build cannot use.
Backend& backend_for(const Device& device);

}  // namespace flux
