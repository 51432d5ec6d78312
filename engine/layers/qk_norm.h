#pragma once

#include <vector>

#include "ops/ops.h"

namespace flux {

/// FLUX's RMS norm of queries or of keys over head_dim, times a factor; see HeadNorm and
/// rms_norm_rope(), which apply it. Source: norm_q and norm_k of diffusers' FluxAttention.
struct QkNorm {
  QkNorm() = default;
  /// learned: [head_dim], f32, head_dim even.
  QkNorm(Context& ctx, const ConstTensor& learned, float factor);

  ConstTensor weight;        // [head_dim], f32, on the device; the factor is in it
  std::vector<float> pairs;  // max(|w0|, |w1|) of each rotated pair
};

/// An upper bound on |q . k| after these norms and any rotation, for any values; bf16's rounding of
/// both is allowed for. Infinity where a weight is not finite.
float largest_product(const QkNorm& queries, const QkNorm& keys);
/// The same of an element.
float largest_element(const QkNorm& norm);

}  // namespace flux
