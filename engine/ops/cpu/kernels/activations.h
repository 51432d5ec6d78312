#pragma once

#include "ops/cpu/simd.h"
#include "ops/ops.h"

/// The activation functions on vectors, for the files in kernels/.
namespace flux::cpu::FLUX_ISA {

struct Identity {
  FLUX_INLINE Vec operator()(Vec x) const { return x; }
};
struct GeluTanh {
  // (1 + tanh u) / 2 = sigmoid(2 u)
  FLUX_INLINE Vec operator()(Vec x) const {
    return x * sigmoid(x * (1.595769122f + 0.071354816f * x * x));
  }
};
struct GeluErf {
  FLUX_INLINE Vec operator()(Vec x) const { return x * normal_cdf(x); }
};
struct QuickGelu {
  FLUX_INLINE Vec operator()(Vec x) const { return x * sigmoid(1.702f * x); }
};
struct Silu {
  FLUX_INLINE Vec operator()(Vec x) const { return x * sigmoid(x); }
};
struct Relu {
  FLUX_INLINE Vec operator()(Vec x) const { return x < 0.0f ? Vec{} : x; }
};

/// Calls f(function object) for `activation`.
template <typename F>
FLUX_INLINE void with_activation(Activation activation, const F& f) {
  switch (activation) {
    case Activation::kNone:
      return f(Identity{});
    case Activation::kGeluTanh:
      return f(GeluTanh{});
    case Activation::kGeluErf:
      return f(GeluErf{});
    case Activation::kQuickGelu:
      return f(QuickGelu{});
    case Activation::kSilu:
      return f(Silu{});
    case Activation::kRelu:
      return f(Relu{});
  }
}

}  // namespace flux::cpu::FLUX_ISA
