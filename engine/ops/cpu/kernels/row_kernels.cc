#include "ops/cpu/kernels/row_kernels.h"

#include "ops/cpu/kernels/activations.h"
#include "ops/cpu/kernels/epilogue.h"
#include "ops/cpu/simd.h"

namespace flux::cpu::FLUX_ISA {
namespace {

template <typename T>
void layer_norm(const T* x, const LayerNormRow& params, int64_t n, T* out) {
  const auto count = static_cast<float>(n);
  const float mean = sum_over(n, [&](int64_t i, auto lanes) { return load(x + i, lanes); }) / count;
  const float variance = sum_over(n,
                                  [&](int64_t i, auto lanes) {
                                    const Vec d = keep(load(x + i, lanes) - mean, lanes);
                                    return d * d;
                                  }) /
                         count;
  const float factor = 1.0f / __builtin_sqrtf(variance + params.eps);
  for_each_vec(n, [&](int64_t i, auto lanes) {
    Vec y = (load(x + i, lanes) - mean) * factor;
    if (params.weight) y *= load(params.weight + i, lanes);
    if (params.bias) y += load(params.bias + i, lanes);
    if (params.scale)
      y = y * (1.0f + load(params.scale + i, lanes)) + load(params.shift + i, lanes);
    store(out + i, y, lanes);
  });
}

template <typename T>
float rms_factor(const T* x, float eps, int64_t n) {
  const float squares = sum_over(n, [&](int64_t i, auto lanes) {
    const Vec value = load(x + i, lanes);
    return value * value;
  });
  return 1.0f / __builtin_sqrtf(squares / static_cast<float>(n) + eps);
}

template <typename T>
void rms_norm(const T* x, const float* weight, float eps, int64_t n, T* out) {
  const float factor = rms_factor(x, eps, n);
  for_each_vec(n, [&](int64_t i, auto lanes) {
    store(out + i, load(x + i, lanes) * factor * load(weight + i, lanes), lanes);
  });
}

template <typename T>
void rms_norm_rope(T* x, int64_t heads, int64_t stride, int64_t n, const float* weight, float eps,
                   const float* cos, const float* sin) {
  for (int64_t head = 0; head < heads; ++head, x += stride) {
    const float factor = rms_factor(x, eps, n);
    for_each_vec(n, [&](int64_t i, auto lanes) {
      const Vec y = load(x + i, lanes) * factor * load(weight + i, lanes);
      store(x + i, y * load(cos + i, lanes) + swap_pairs(y) * load(sin + i, lanes), lanes);
    });
  }
}

/// Computes sums[c], the sum of f(value, c) over the pixels, for kVecs vectors of channels at a
/// time: wide enough to walk along memory, narrow enough for registers.
template <int kVecs, typename T, typename F>
FLUX_INLINE void sum_columns(const T* x, int64_t pixels, int64_t channels, int64_t first,
                             float* sums, const F& f) {
  Vec total[2 * kVecs] = {};
  const T* value = x + first;
  int64_t pixel = 0;
  for (; pixel + 2 <= pixels; pixel += 2, value += 2 * channels) {
    for (int j = 0; j < kVecs; ++j) {
      const int64_t c = first + j * kLanes;
      total[j] += f(load(value + j * kLanes), c, Full{});
      total[kVecs + j] += f(load(value + channels + j * kLanes), c, Full{});
    }
  }
  for (int j = 0; j < kVecs; ++j) {
    if (pixel < pixels) total[j] += f(load(value + j * kLanes), first + j * kLanes, Full{});
    store(sums + first + j * kLanes, total[j] + total[kVecs + j]);
  }
}

template <typename T, typename F>
FLUX_INLINE void sum_channels(const T* x, int64_t pixels, int64_t channels, float* sums,
                              const F& f) {
  int64_t c = 0;
  for (; c + 4 * kLanes <= channels; c += 4 * kLanes)
    sum_columns<4>(x, pixels, channels, c, sums, f);
  for (; c + kLanes <= channels; c += kLanes) sum_columns<1>(x, pixels, channels, c, sums, f);
  if (c == channels) return;
  const Partial lanes{channels - c};
  Vec total = {};
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    total += f(load(x + pixel * channels + c, lanes), c, lanes);
  }
  store(sums + c, total, lanes);
}

template <typename T>
void group_moments(const T* x, int64_t pixels, int64_t channels, int64_t groups, float* sums,
                   Moments* moments) {
  const int64_t size = channels / groups;
  const auto count = static_cast<float>(size * pixels);
  sum_channels(x, pixels, channels, sums, [](Vec value, int64_t, auto) { return value; });
  for (int64_t g = 0; g < groups; ++g) {
    float total = 0.0f;
    for (int64_t c = g * size; c < (g + 1) * size; ++c) total += sums[c];
    moments[g].mean = total / count;
    for (int64_t c = g * size; c < (g + 1) * size; ++c) sums[c] = moments[g].mean;
  }
  sum_channels(x, pixels, channels, sums, [sums](Vec value, int64_t c, auto lanes) {
    const Vec distance = value - load(sums + c, lanes);
    return distance * distance;
  });
  for (int64_t g = 0; g < groups; ++g) {
    float total = 0.0f;
    for (int64_t c = g * size; c < (g + 1) * size; ++c) total += sums[c];
    moments[g].squares = total;
  }
}

template <typename T, typename F>
FLUX_INLINE void map(const T* x, int64_t n, T* out, const F& f) {
  for_each_vec(n, [&](int64_t i, auto lanes) { store(out + i, f(load(x + i, lanes)), lanes); });
}

template <typename T>
void activate(const T* x, Activation activation, int64_t n, T* out) {
  with_activation(activation, [&](const auto& f) { map(x, n, out, f); });
}

template <typename T, typename F>
FLUX_INLINE void scale_shift(const T* x, int64_t pixels, int64_t channels,
                             const GroupAffine& affine, T* out, const F& f) {
  const float* mean = affine.mean;
  const float* scale = affine.scale;
  const float* shift = affine.shift;
  const auto apply = [&](int64_t pixel, int64_t c, auto lanes) {
    // x * scale + (shift - mean * scale) would cancel when the mean is large.
    const Vec centred = load(x + pixel * channels + c, lanes) - load(mean + c, lanes);
    const Vec y = centred * load(scale + c, lanes) + load(shift + c, lanes);
    store(out + pixel * channels + c, f(y), lanes);
  };
  const int64_t whole = channels / kLanes * kLanes;
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    for (int64_t c = 0; c < whole; c += kLanes) apply(pixel, c, Full{});
  }
  if (whole == channels) return;
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    apply(pixel, whole, Partial{channels - whole});
  }
}

template <typename T>
void group_apply(const T* x, int64_t pixels, int64_t channels, const GroupAffine& affine,
                 Activation activation, T* out) {
  if (activation == Activation::kSilu) {
    scale_shift(x, pixels, channels, affine, out, Silu{});
  } else {
    scale_shift(x, pixels, channels, affine, out, Identity{});
  }
}

template <typename T>
void multiply(const T* a, const T* b, int64_t n, T* out) {
  for_each_vec(n, [&](int64_t i, auto lanes) {
    store(out + i, load(a + i, lanes) * load(b + i, lanes), lanes);
  });
}

template <typename T>
void add(const T* a, const T* b, int64_t n, T* out) {
  for_each_vec(n, [&](int64_t i, auto lanes) {
    store(out + i, load(a + i, lanes) + load(b + i, lanes), lanes);
  });
}

}  // namespace

template <typename T>
RowKernels<T> row_kernels() {
  return {layer_norm<T>, rms_norm<T>, rms_norm_rope<T>, group_moments<T>, group_apply<T>,
          activate<T>,   multiply<T>, add<T>,           store_tile<T>};
}

template RowKernels<float> row_kernels<float>();
template RowKernels<BFloat16> row_kernels<BFloat16>();

}  // namespace flux::cpu::FLUX_ISA
