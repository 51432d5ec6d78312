#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "ops/cpu/onednn.h"
#include "ops/kernels.h"

/// What the tests of linear and conv2d share: the ops as plain loops in double precision.
namespace flux::product_reference {

inline double get(const ConstTensor& tensor, int64_t element) {
  if (tensor.dtype() == DType::kF32) return tensor.data<float>()[element];
  return static_cast<float>(tensor.data<BFloat16>()[element]);
}

inline void set(const Tensor& tensor, int64_t element, double value) {
  if (tensor.dtype() == DType::kF32) {
    tensor.data<float>()[element] = static_cast<float>(value);
  } else {
    tensor.data<BFloat16>()[element] = BFloat16(static_cast<float>(value));
  }
}

/// A new contiguous tensor of normally distributed numbers.
inline Tensor random_tensor(const Shape& shape, DType dtype, uint32_t seed, double scale = 1.0) {
  const Tensor tensor = Tensor::allocate(shape, dtype);
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(0.0, scale);
  for (int64_t i = 0; i < tensor.numel(); ++i) set(tensor, i, normal(generator));
  return tensor;
}

/// As random_tensor, [rows, n], with a gap of `gap` elements after each row.
inline Tensor random_rows(int64_t rows, int64_t n, int64_t gap, DType dtype, uint32_t seed) {
  return random_tensor({rows, n + gap}, dtype, seed).slice(1, 0, n);
}

inline double activate(Activation activation, double x) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kGeluTanh:
      return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kGeluErf:
      return 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
    case Activation::kQuickGelu:
      return x / (1.0 + std::exp(-1.702 * x));
    case Activation::kSilu:
      return x / (1.0 + std::exp(-x));
    case Activation::kRelu:
      return x > 0.0 ? x : 0.0;
  }
  return NAN;
}

/// residual + gate * activation(x W^T + b) for rows of x; b, gate and residual may be undefined.
inline std::vector<double> linear(const ConstTensor& x, const ConstTensor& weight,
                                  const ConstTensor& bias, const Epilogue& epilogue) {
  const int64_t depth = weight.size(1);
  const int64_t columns = weight.size(0);
  std::vector<double> result;
  for (int64_t i = 0; i < x.size(0); ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      double sum = bias.defined() ? get(bias, j) : 0.0;
      for (int64_t k = 0; k < depth; ++k) {
        sum += get(x, i * x.stride(0) + k) * get(weight, j * weight.stride(0) + k);
      }
      sum = activate(epilogue.activation, sum);
      if (epilogue.gate.defined()) sum *= get(epilogue.gate, j);
      const ConstTensor& residual = epilogue.residual;
      if (residual.defined()) sum += get(residual, i * residual.stride(0) + j);
      result.push_back(sum);
    }
  }
  return result;
}

/// The convolution of x [h, w, in] with weight [out, in, k, k] and zeros outside of the image.
inline std::vector<double> conv2d(const ConstTensor& x, const ConstTensor& weight,
                                  const ConstTensor& bias, ConvSize size,
                                  const ConstTensor& residual) {
  const int64_t scale = size == ConvSize::kDoubled ? 2 : 1;
  const int64_t stride = size == ConvSize::kHalved ? 2 : 1;
  const int64_t border = size == ConvSize::kHalved ? 0 : weight.size(2) / 2;
  const int64_t out_width = conv_side(size, x.size(1));
  const int64_t pixels = conv_side(size, x.size(0)) * out_width;
  const int64_t in = x.size(2);
  const int64_t k = weight.size(2);
  std::vector<double> result;
  for (int64_t element = 0; element < pixels * weight.size(0); ++element) {
    const int64_t channel = element % weight.size(0);
    const int64_t column = element / weight.size(0) % out_width;
    const int64_t line = element / weight.size(0) / out_width;
    double sum = get(bias, channel);
    for (int64_t tap = 0; tap < k * k; ++tap) {
      const int64_t from_y = line * stride + tap / k - border;
      const int64_t from_x = column * stride + tap % k - border;
      if (from_y < 0 || from_y >= x.size(0) * scale) continue;
      if (from_x < 0 || from_x >= x.size(1) * scale) continue;
      const int64_t pixel = (from_y / scale * x.size(1) + from_x / scale) * in;
      for (int64_t c = 0; c < in; ++c) {
        sum += get(x, pixel + c) * get(weight, (channel * in + c) * k * k + tap);
      }
    }
    if (residual.defined()) sum += get(residual, element);
    result.push_back(sum);
  }
  return result;
}

struct Difference {
  double largest = 0.0;  // absolute error
  double scale = 0.0;    // largest absolute expected value
  double rms = 0.0;
};

/// How far `out` (rows may be strided) is from `expected`.
inline Difference compare(const ConstTensor& out, const std::vector<double>& expected) {
  Difference difference;
  const int64_t n = out.size(-1);
  const int64_t stride = out.rank() == 2 ? out.stride(0) : n;
  for (int64_t i = 0; i < out.numel(); ++i) {
    const double want = expected[static_cast<size_t>(i)];
    const double error = std::abs(get(out, i / n * stride + i % n) - want);
    if (!(error <= difference.largest)) difference.largest = error;  // NaN counts
    difference.scale = std::max(difference.scale, std::abs(want));
    difference.rms += error * error;
  }
  difference.rms = std::sqrt(difference.rms / static_cast<double>(out.numel()));
  return difference;
}

/// Error allowed for results of `dtype`, as a part of the largest value: bf16 rounds the result
/// once (2^-9), f32 sums carry some rounding errors each.
inline double tolerance(DType dtype) { return dtype == DType::kBF16 ? 0.0040 : 3e-6; }

inline bool same_bytes(const ConstTensor& a, const ConstTensor& b) {
  return a.bytes() == b.bytes() &&
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0;
}

/// A way to compute with bf16, while it lives.
class Bf16PathScope {
 public:
  explicit Bf16PathScope(cpu::Bf16Path path) : previous_(cpu::bf16_path()) {
    cpu::set_bf16_path(path);
  }
  ~Bf16PathScope() { cpu::set_bf16_path(previous_); }
  Bf16PathScope(const Bf16PathScope&) = delete;
  Bf16PathScope& operator=(const Bf16PathScope&) = delete;

 private:
  cpu::Bf16Path previous_;
};

/// A dtype and how it is computed with; bf16 is tested both ways.
struct Compute {
  DType dtype;
  cpu::Bf16Path path;
};

inline std::vector<Compute> computes() {
  std::vector<Compute> all = {{DType::kF32, cpu::bf16_path()},
                              {DType::kBF16, cpu::Bf16Path::kThroughF32}};
  if (cpu::bf16_path() == cpu::Bf16Path::kNative) {
    all.push_back({DType::kBF16, cpu::Bf16Path::kNative});
  }
  return all;
}

inline std::string name_of_compute(const Compute& compute) {
  if (compute.dtype == DType::kF32) return "f32";
  return compute.path == cpu::Bf16Path::kNative ? "bf16" : "bf16_through_f32";
}

}  // namespace flux::product_reference
