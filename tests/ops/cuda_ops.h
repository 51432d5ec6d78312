#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <random>
#include <string>

#include "ops/cuda_library.h"
#include "ops/registry.h"
#include "support/error.h"

/// What the tests of ops on a GPU share: each against the CPU's, which has tests of its own.
namespace flux {

inline constexpr Device kGpu{Device::Kind::kCuda, 0};

/// A tensor in host memory and a copy of it on the GPU with the same strides.
struct Twin {
  Tensor cpu;
  Tensor gpu;

  Twin slice(int dim, int64_t begin, int64_t end) const {
    return {cpu.slice(dim, begin, end), gpu.slice(dim, begin, end)};
  }
  Twin split_last(int64_t outer, int64_t inner) const {
    return {cpu.split_last(outer, inner), gpu.split_last(outer, inner)};
  }
};

class CudaOps : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    if (!has_cuda()) GTEST_SKIP() << "there is no GPU";
    cpu_.emplace(backend_for(Device{}), 2);
    gpu_.emplace(backend_for(kGpu), 2);
  }

  DType dtype() const { return GetParam(); }

  /// Normal numbers, new ones with each call.
  Twin random(const Shape& shape, DType type, float mean = 0.0f, float spread = 1.0f) {
    const Tensor values = Tensor::allocate(shape, DType::kF32);
    std::normal_distribution<float> normal(mean, spread);
    for (int64_t i = 0; i < values.numel(); ++i) values.data<float>()[i] = normal(generator_);
    const Tensor host = to_dtype(values, type);
    return {host, to_device(*gpu_, host)};
  }
  Twin random(const Shape& shape) { return random(shape, dtype()); }
  /// [rows, n] with a gap of `gap` elements after each row.
  Twin rows(int64_t count, int64_t n, int64_t gap) {
    return random({count, n + gap}).slice(1, 0, n);
  }

  /// The GPU's values are the CPU's within the rounding of T and of sums.
  void expect_same(const Twin& twin, const std::string& what) {
    const Tensor found = to_dtype(to_host(*gpu_, twin.gpu), DType::kF32);
    const Tensor expected = to_dtype(twin.cpu, DType::kF32);
    double scale = 0;
    double difference = 0;
    for (int64_t i = 0; i < expected.numel(); ++i) {
      const double want = expected.data<float>()[i];
      const double error = std::abs(found.data<float>()[i] - want);
      if (!(error <= difference)) difference = error;  // NaN counts
      scale = std::max(scale, std::abs(want));
    }
    const double tolerance = dtype() == DType::kF32 ? 2e-5 : 1.2e-2;
    EXPECT_LE(difference, tolerance * scale) << what << ", largest value " << scale;
  }

  std::optional<Context> cpu_;
  std::optional<Context> gpu_;

 private:
  std::mt19937 generator_{7};
};

/// Whether two tensors on the GPU have the same bytes.
inline bool same_bytes(Context& ctx, const ConstTensor& a, const ConstTensor& b) {
  const ConstTensor x = to_host(ctx, a);
  const ConstTensor y = to_host(ctx, b);
  return std::memcmp(x.raw(), y.raw(), static_cast<size_t>(x.bytes())) == 0;
}

/// Applies a norm in passes over the stored result.
inline void norm_in_passes(Context& ctx, const HeadNorm& norm, const Tensor& out) {
  const int64_t q_and_k = norm.q_heads + norm.k_heads;
  const Tensor all =
      out.slice(1, 0, q_and_k * norm.head_dim()).split_last(q_and_k, norm.head_dim());
  rms_norm_rope(ctx, all.slice(1, 0, norm.q_heads), norm.weight_q, norm.eps, norm.rope);
  rms_norm_rope(ctx, all.slice(1, norm.q_heads, q_and_k), norm.weight_k, norm.eps, norm.rope);
}

}  // namespace flux
