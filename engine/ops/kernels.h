#pragma once

#include <vector>

#include "ops/ops.h"
#include "runtime/device_runtime.h"

namespace flux {

/// Every op that a device implements: its result, its name and its parameters' types. ops.h is the
/// contract and the way to call them: it checks the arguments first, so implementations do not.
/// Both backends and the refusals below are declared from this list.
// clang-format off
#define FLUX_OPS(OP)                                                                               \
  OP(std::shared_ptr<const PackedWeights>, pack_linear,                                            \
     (Context&, std::span<const StoredTensor>, std::span<const ConstTensor>, DType, Quantization))                         \
  OP(std::shared_ptr<const PackedWeights>, pack_up,                                                \
     (Context&, const ConstTensor&, const ConstTensor&, int64_t, DType))                                     \
  OP(std::shared_ptr<const PackedWeights>, pack_conv2d,                                            \
     (Context&, const ConstTensor&, const ConstTensor&, DType, ConvSize))                                        \
  OP(void, linear, (Context&, std::span<const LinearPart>))                                        \
  OP(void, conv2d,                                                                                 \
     (Context&, const ConstTensor&, const Conv2dWeights&, const ConstTensor&, const Tensor&))                \
  OP(void, layer_norm, (Context&, std::span<const LayerNormPart>))                                 \
  OP(void, rms_norm, (Context&, const ConstTensor&, const ConstTensor&, float, const Tensor&))               \
  OP(void, rms_norm_rope, (Context&, const Tensor&, const ConstTensor&, float, const RopeTable&))       \
  OP(void, attention, (Context&, std::span<const AttentionPart>, const AttentionOptions&))         \
  OP(void, group_norm, (Context&, const ConstTensor&, const GroupNormParams&, const Tensor&))           \
  OP(void, activate, (Context&, const ConstTensor&, Activation, const Tensor&))                         \
  OP(void, multiply, (Context&, const ConstTensor&, const ConstTensor&, const Tensor&))                      \
  OP(void, add, (Context&, const ConstTensor&, const ConstTensor&, const Tensor&))                           \
  OP(void, cast, (Context&, const ConstTensor&, const Tensor&))                                         \
  OP(void, transpose, (Context&, const ConstTensor&, const Tensor&))                                    \
  OP(void, rope_angles, (Context&, const ConstTensor&, const RopeAxes&, const Tensor&, const Tensor&))              \
  OP(void, euler_step, (Context&, const Tensor&, const EulerStep&))                                \
  OP(void, scale_noise, (Context&, const Tensor&, const NoisedImage&))                             \
  OP(void, unpack_tokens, (Context&, const ConstTensor&, float, float, const Tensor&))                  \
  OP(void, to_bytes, (Context&, const ConstTensor&, const Tensor&))                                     \
  OP(void, embedding, (Context&, const StoredTensor&, std::span<const int32_t>, const Tensor&))
// clang-format on

/// Declares an op of FLUX_OPS in a backend that implements it.
#define FLUX_OVERRIDE_OP(result, name, parameters) result name parameters override;

/// The ops of one device. A device need not have all of them: the others throw kUnsupported.
class Kernels {
 public:
  virtual ~Kernels() = default;

  /// Whether activations and weights can be `dtype` here.
  virtual bool supports(DType dtype) const = 0;
  /// How linears of a quantization, or attention of the same, are computed here with activations of
  /// `dtype`.
  enum class Support { kNo, kByValues, kYes };  // by values: in T, with those of the weights
  virtual Support support(Quantization quantization, DType dtype) const {
    static_cast<void>(dtype);
    return quantization == Quantization::kNone ? Support::kYes : Support::kByValues;
  }
  /// The number of tokens up to which sequences are computed faster together than one by one; 0
  /// where they never are.
  virtual int64_t useful_tokens() const { return 0; }
  /// Whether the device has use for AttentionOptions::e4m3.
  virtual bool attends_in_e4m3(DType dtype, int64_t head_dim) const {
    static_cast<void>(dtype);
    static_cast<void>(head_dim);
    return false;
  }
  /// Whether linears that take e4m3 have HeadNorm::encoded for such heads.
  virtual bool encodes_heads(int64_t head_dim) const {
    static_cast<void>(head_dim);
    return false;
  }

#define FLUX_REFUSE_OP(result, name, parameters) \
  virtual result name parameters { refuse(#name); }
  FLUX_OPS(FLUX_REFUSE_OP)
#undef FLUX_REFUSE_OP

 private:
  [[noreturn]] static void refuse(const char* op);
};

/// A device that computes.
class Backend : public DeviceRuntime, public Kernels {
 public:
  Kernels* as_kernels() final { return this; }
  /// Throws kUnsupported, naming device and what of `precision` it cannot compute in. Warns where
  /// the products are not those asked for.
  void require(const Precision& precision) const;
};

/// The ops of the context's device. Throws kUnsupported where it has none.
Kernels& kernels_of(const Context& ctx);

/// Stacks the biases of stacked weights, both as pack_linear() takes them, into one f32 bias [n] in
/// host memory; absent ones count as zero. The result is undefined when there are none.
Tensor stack_biases(std::span<const StoredTensor> weights, std::span<const ConstTensor> biases);

/// The weights as e4m3, each with a scale for each of its rows: the largest size by 448. Those that
/// are e4m3 as stored stay as they are, the others are rounded to `dtype` first. In host memory.
std::vector<StoredTensor> encode_e4m3(std::span<const StoredTensor> weights, DType dtype,
                                      int threads);

/// `norm` of a linear's result in passes of their own, for a backend that has nothing better.
void norm_heads(Context& ctx, const HeadNorm& norm, const Tensor& out);

}  // namespace flux
