#include "layers/qk_norm.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace flux {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kRounding = 1.02f;

}  // namespace

QkNorm::QkNorm(Context& ctx, const ConstTensor& learned, float factor) {
  const int64_t head_dim = learned.size(0);
  const Tensor scaled = Tensor::allocate({head_dim}, DType::kF32);
  float* values = scaled.data<float>();
  for (int64_t i = 0; i < head_dim; ++i) values[i] = learned.data<float>()[i] * factor;
  for (int64_t i = 0; i < head_dim; i += 2) {
    const float larger = std::max(std::abs(values[i]), std::abs(values[i + 1]));
    pairs.push_back(std::isnan(values[i] + values[i + 1]) ? kInfinity : larger);
  }
  weight = to_device(ctx, scaled);
}

/// Before its weights a normalised head is no longer than the root of head_dim, and a rotation only
/// moves what a pair has: so the product is at most head_dim times the largest product of a pair's
/// weights (Cauchy and Schwarz).
float largest_product(const QkNorm& queries, const QkNorm& keys) {
  float largest = 0;
  for (size_t i = 0; i < queries.pairs.size(); ++i) {
    const float product = queries.pairs[i] * keys.pairs[i];
    if (!std::isfinite(product)) return kInfinity;
    largest = std::max(largest, product);
  }
  return kRounding * 2.0f * static_cast<float>(queries.pairs.size()) * largest;
}

float largest_element(const QkNorm& norm) {
  const float largest = *std::max_element(norm.pairs.begin(), norm.pairs.end());
  return kRounding * std::sqrt(2.0f * static_cast<float>(norm.pairs.size())) * largest;
}

}  // namespace flux
