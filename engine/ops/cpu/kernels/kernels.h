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

/// Of a group of values: their mean and their squared distances from it.
struct Moments {
  float mean;
  float squares;
};

/// A tile of a product's sums and what becomes of it:
/// out = residual + gate * activation(sums + bias). Null where left out. May alias as the ops say.
template <typename T>
struct TileEpilogue {
  const float* sums;  // [rows, columns]
  int64_t rows;
  int64_t columns;
  const float* bias;  // [columns]
  Activation activation;
  const float* gate;  // [columns]
  const T* residual;
  int64_t residual_stride;  // elements between rows
  T* out;
  int64_t out_stride;
};

/// What a group norm does to each channel.
struct GroupAffine {
  float* mean;
  float* scale;
  float* shift;
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
  /// out = activation((x - mean) * scale + shift); mean, scale and shift for each channel.
  void (*group_apply)(const T* x, int64_t pixels, int64_t channels, const GroupAffine& affine,
                      Activation activation, T* out);
  void (*activate)(const T* x, Activation activation, int64_t n, T* out);
  void (*multiply)(const T* a, const T* b, int64_t n, T* out);
  void (*add)(const T* a, const T* b, int64_t n, T* out);
  void (*store_tile)(const TileEpilogue<T>& tile);
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
