#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "ops/cpu/isa.h"
#include "ops/kernels.h"

/// What the tests of attention, norms and elementwise ops share: tensors of random numbers, and
/// the ops as plain loops in double precision.
namespace flux::row_reference {

using Values = std::vector<double>;

inline std::vector<cpu::Isa> isas() {
  std::vector<cpu::Isa> all;
  for (int i = 0; i <= static_cast<int>(cpu::best_isa()); ++i) {
    all.push_back(static_cast<cpu::Isa>(i));
  }
  return all;
}

inline std::string name_of_isa(cpu::Isa isa) {
  const char* names[] = {"baseline", "avx2", "avx512", "avx512_vnni", "avx512_bf16"};
  return names[static_cast<int>(isa)];
}

/// Kernels of one instruction set while it lives.
class IsaScope {
 public:
  explicit IsaScope(cpu::Isa isa) { cpu::use_isa(isa); }
  ~IsaScope() { cpu::use_isa(cpu::best_isa()); }
  IsaScope(const IsaScope&) = delete;
  IsaScope& operator=(const IsaScope&) = delete;
};

inline double get(const ConstTensor& tensor, int64_t element) {
  if (tensor.dtype() == DType::kF32) return tensor.data<float>()[element];
  return static_cast<float>(tensor.data<BFloat16>()[element]);
}

inline void set(const Tensor& tensor, int64_t element, double value) {
  const auto number = static_cast<float>(value);
  if (tensor.dtype() == DType::kF32) {
    tensor.data<float>()[element] = number;
  } else {
    tensor.data<BFloat16>()[element] = BFloat16(number);
  }
}

/// Calls f(address, index) for each element of a strided tensor in the order of its indices.
template <typename AnyTensor, typename F>
void for_each_element(const AnyTensor& tensor, const F& f) {
  if (tensor.rank() > 1) {
    for (int64_t i = 0; i < tensor.size(0); ++i) for_each_element(tensor[i], f);
  } else {
    for (int64_t i = 0; i < tensor.numel(); ++i) f(tensor, i);
  }
}

inline Values values_of(const ConstTensor& tensor) {
  Values values;
  for_each_element(tensor,
                   [&](const ConstTensor& row, int64_t i) { values.push_back(get(row, i)); });
  return values;
}

/// Fills with normal numbers: mean + spread * N(0, 1).
inline void fill(const Tensor& tensor, unsigned seed, double mean = 0.0, double spread = 1.0) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(mean, spread);
  for_each_element(tensor, [&](const Tensor& row, int64_t i) { set(row, i, normal(generator)); });
}

inline Tensor random(const Shape& shape, DType dtype, unsigned seed, double mean = 0.0,
                     double spread = 1.0) {
  const Tensor tensor = Tensor::allocate(shape, dtype);
  fill(tensor, seed, mean, spread);
  return tensor;
}

/// Angles of all directions.
inline RopeTable rope_of_all_angles(int64_t tokens, int64_t pairs) {
  const Tensor cosines = Tensor::allocate({tokens, pairs}, DType::kF32);
  const Tensor sines = Tensor::allocate({tokens, pairs}, DType::kF32);
  for (int64_t i = 0; i < tokens * pairs; ++i) {
    cosines.data<float>()[i] = static_cast<float>(std::cos(0.7 * static_cast<double>(i)));
    sines.data<float>()[i] = static_cast<float>(std::sin(0.7 * static_cast<double>(i)));
  }
  return {cosines, sines};
}

/// A [rows, n] view whose rows lie `gap` elements apart from each other's ends.
inline Tensor strided(int64_t rows, int64_t n, int64_t gap, DType dtype) {
  const Tensor whole = Tensor::allocate({rows, n + gap}, dtype);
  fill(whole, 99);
  return whole.slice(1, gap / 2, gap / 2 + n);
}

inline Tensor copy_of(const ConstTensor& tensor) { return to_dtype(tensor, tensor.dtype()); }

/// Every value within `tolerance` * max(1, |expected|), besides the rounding of the dtype.
inline void expect_close(const ConstTensor& actual, const Values& expected, double tolerance) {
  const double rounding = actual.dtype() == DType::kBF16 ? 0x1p-8 : 0x1p-24;
  const Values values = values_of(actual);
  ASSERT_EQ(values.size(), expected.size());
  for (size_t i = 0; i < values.size(); ++i) {
    const double allowed =
        std::abs(expected[i]) * rounding * 1.01 + tolerance * std::max(1.0, std::abs(expected[i]));
    // Written so that NaN fails.
    ASSERT_TRUE(std::abs(values[i] - expected[i]) <= allowed)
        << "element " << i << ": " << values[i] << ", expected " << expected[i];
  }
}

inline bool same_bytes(const ConstTensor& a, const ConstTensor& b) {
  const Tensor left = copy_of(a);
  const Tensor right = copy_of(b);
  return left.bytes() == right.bytes() &&
         std::memcmp(left.raw(), right.raw(), static_cast<size_t>(left.bytes())) == 0;
}

inline Values layer_norm(const ConstTensor& x, const LayerNormParams& params) {
  Values result;
  for (int64_t i = 0; i < x.size(0); ++i) {
    const Values row = values_of(x[i]);
    double mean = 0.0;
    double variance = 0.0;
    for (const double value : row) mean += value / static_cast<double>(row.size());
    for (const double value : row) {
      variance += (value - mean) * (value - mean) / static_cast<double>(row.size());
    }
    for (size_t j = 0; j < row.size(); ++j) {
      const auto column = static_cast<int64_t>(j);
      double y = (row[j] - mean) / std::sqrt(variance + static_cast<double>(params.eps));
      if (params.weight.defined()) y *= get(params.weight, column);
      if (params.bias.defined()) y += get(params.bias, column);
      if (params.scale.defined()) {
        y = y * (1.0 + get(params.scale, column)) + get(params.shift, column);
      }
      result.push_back(y);
    }
  }
  return result;
}

inline Values rms_norm(const ConstTensor& x, const ConstTensor& weight, float eps) {
  Values result;
  for (int64_t i = 0; i < x.size(0); ++i) {
    const Values row = values_of(x[i]);
    double squares = 0.0;
    for (const double value : row) squares += value * value / static_cast<double>(row.size());
    for (size_t j = 0; j < row.size(); ++j) {
      result.push_back(row[j] / std::sqrt(squares + static_cast<double>(eps)) *
                       get(weight, static_cast<int64_t>(j)));
    }
  }
  return result;
}

inline Values rms_norm_rope(const ConstTensor& x, const ConstTensor& weight, float eps,
                            const RopeTable& rope) {
  Values result;
  for (int64_t token = 0; token < x.size(0); ++token) {
    const Values normed = rms_norm(x[token], weight, eps);
    for (size_t i = 0; i < normed.size(); i += 2) {
      const int64_t pair = static_cast<int64_t>(i) % x.size(2) / 2;
      const double cos = get(rope.cos[token], pair);
      const double sin = get(rope.sin[token], pair);
      result.push_back(normed[i] * cos - normed[i + 1] * sin);
      result.push_back(normed[i + 1] * cos + normed[i] * sin);
    }
  }
  return result;
}

inline double activation(Activation kind, double x) {
  switch (kind) {
    case Activation::kNone:
      return x;
    case Activation::kGeluTanh:  // x sigmoid(2 u) is x (1 + tanh u) / 2 without cancellation
      return x / (1.0 + std::exp(-2.0 * std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kGeluErf:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::kQuickGelu:
      return x / (1.0 + std::exp(-1.702 * x));
    case Activation::kSilu:
      return x / (1.0 + std::exp(-x));
    case Activation::kRelu:
      return std::max(x, 0.0);
  }
  return x;
}

inline Values group_norm(const ConstTensor& x, const GroupNormParams& params) {
  Values result = values_of(x);
  const auto channels = static_cast<size_t>(x.size(-1));
  const size_t size = channels / static_cast<size_t>(params.groups);
  const double count = static_cast<double>(result.size() / channels * size);
  for (size_t first = 0; first < channels; first += size) {
    const auto for_group = [&](const auto& f) {
      for (size_t i = first; i < result.size(); i += channels) {
        for (size_t c = 0; c < size; ++c) f(result[i + c], static_cast<int64_t>(first + c));
      }
    };
    double mean = 0.0;
    double variance = 0.0;
    for_group([&](double value, int64_t) { mean += value / count; });
    for_group([&](double value, int64_t) { variance += (value - mean) * (value - mean) / count; });
    for_group([&](double& value, int64_t channel) {
      const double y = (value - mean) / std::sqrt(variance + static_cast<double>(params.eps));
      value = activation(params.activation,
                         y * get(params.weight, channel) + get(params.bias, channel));
    });
  }
  return result;
}

inline Values attention(const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
                        const AttentionOptions& options) {
  const auto tokens = static_cast<size_t>(q.size(0));
  const auto heads = static_cast<size_t>(q.size(1));
  const auto n = static_cast<size_t>(q.size(2));
  const Values queries = values_of(q);
  const Values keys = values_of(k);
  const Values values = values_of(v);
  const size_t width = heads * n;
  Values result(tokens * width, 0.0);
  for (size_t i = 0; i < tokens; ++i) {
    for (size_t head = 0; head < heads; ++head) {
      const size_t first = i * width + head * n;
      Values scores(keys.size() / width);
      if (options.causal) scores.resize(std::min(i + 1, scores.size()));
      for (size_t j = 0; j < scores.size(); ++j) {
        double score = 0.0;
        for (size_t c = 0; c < n; ++c) {
          score += queries[first + c] * keys[j * width + head * n + c];
        }
        scores[j] = score * static_cast<double>(options.scale);
        if (options.relative_bias.defined()) {
          scores[j] += get(options.relative_bias,
                           static_cast<int64_t>(head) * options.relative_bias.size(1) +
                               static_cast<int64_t>(j + tokens - 1 - i));
        }
      }
      const double most = *std::max_element(scores.begin(), scores.end());
      double total = 0.0;
      for (double& score : scores) total += score = std::exp(score - most);
      for (size_t j = 0; j < scores.size(); ++j) {
        for (size_t c = 0; c < n; ++c) {
          result[first + c] += scores[j] / total * values[j * width + head * n + c];
        }
      }
    }
  }
  return result;
}

}  // namespace flux::row_reference
