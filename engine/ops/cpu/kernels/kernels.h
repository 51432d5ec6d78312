#pragma once

#include <cstdint>

#include "ops/ops.h"
#include "tensor/dtype.h"

/// The inner loops of the ops, for one thread. Each instruction set has its own build of them;
/// isa.h picks one. Sizes are in elements. T is float or BFloat16.
namespace flux::cpu {

/// Per-feature parameters of a layer norm; null where left out.
struct LayerNormRow {
  const float* weight;
  const float* bias;
  const float* scale;
  const float* shift;
  float eps;
};

/// Sum of a group of values: their mean and their squared distances from it.
struct Moments {
  float mean;
  float squares;
};

template <typename T>
struct RowKernels {
  void (*layer_norm)(const T* x, const LayerNormRow& params, int64_t n, T* out);
  void (*rms_norm)(const T* x, const float* weight, float eps, int64_t n, T* out);
  /// One token: `heads` rows of n, `stride` apart, in place. cos and sin hold n values: an
  /// angle's value for both members of its pair, the sine negated for the first.
  void (*rms_norm_rope)(T* x, int64_t heads, int64_t stride, int64_t n, const float* weight,
                        float eps, const float* cos, const float* sin);
  /// moments[groups] of pixels x channels; sums: scratch for `channels` floats.
  void (*group_moments)(const T* x, int64_t pixels, int64_t channels, int64_t groups, float* sums,
                        Moments* moments);
  /// out = activation(x * scale + shift), scale and shift for each channel.
  void (*group_apply)(const T* x, int64_t pixels, int64_t channels, const float* scale,
                      const float* shift, Activation activation, T* out);
  void (*activate)(const T* x, Activation activation, int64_t n, T* out);
  void (*multiply)(const T* a, const T* b, int64_t n, T* out);
  void (*add)(const T* a, const T* b, int64_t n, T* out);
};

struct Kernels {
  const char* name;
  RowKernels<float> f32;
  RowKernels<BFloat16> bf16;

  template <typename T>
  const RowKernels<T>& rows() const {
    if constexpr (sizeof(T) == sizeof(float)) {
      return f32;
    } else {
      return bf16;
    }
  }
};

}  // namespace flux::cpu
