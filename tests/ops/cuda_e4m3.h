#pragma once

#include <algorithm>

#include "ops/cuda_ops.h"
#include "ops/kernels.h"

/// What the tests of ops whose rows are e4m3 share.
namespace flux {

/// Rows of e4m3 on the GPU, and their values on the CPU.
struct Encoded {
  Tensor numbers;
  RowScales scales;
  Tensor values;  // f32
};

class CudaE4M3 : public CudaOps {
 protected:
  void SetUp() override {
    CudaOps::SetUp();
    if (IsSkipped()) return;
    const Kernels& kernels = kernels_of(*gpu_);
    if (kernels.support(Quantization::kFp8, DType::kBF16) != Kernels::Support::kYes) {
      GTEST_SKIP() << "the GPU has no kernels for e4m3";
    }
  }

  /// Normal numbers; rows differ in size.
  Encoded encoded(int64_t count, int64_t n) {
    const Tensor wide = random({count, n}, DType::kF32).cpu;
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t j = 0; j < n; ++j)
        wide.data<float>()[i * n + j] *= static_cast<float>(1 + i % 7);
    }
    const StoredTensor stored = encode_e4m3(std::vector<StoredTensor>{wide}, DType::kF32, 1)[0];
    Encoded rows;
    rows.values = decode(stored, DType::kF32);
    const Tensor norms = Tensor::allocate({count}, DType::kF32);
    for (int64_t i = 0; i < count; ++i) {
      double squares = 0;
      for (int64_t j = 0; j < n; ++j) squares += std::pow(rows.values.data<float>()[i * n + j], 2);
      norms.data<float>()[i] = static_cast<float>(std::sqrt(squares));
    }
    rows.numbers = on_gpu(stored.data);
    rows.scales = {on_gpu(stored.scales), on_gpu(norms)};
    return rows;
  }
  Tensor on_gpu(const ConstTensor& host) {
    const Tensor result = new_tensor(*gpu_, host.shape(), host.dtype());
    copy(*gpu_, host, result);
    return result;
  }
  Tensor new_rows(int64_t count, int64_t n, DType type) {
    return new_tensor(*gpu_, {count, n}, type);
  }
  RowScales new_scales(int64_t count) {
    return {new_tensor(*gpu_, {count}, DType::kF32), new_tensor(*gpu_, {count}, DType::kF32)};
  }

  /// What e4m3 rows on the GPU mean, in f32.
  Tensor decoded(const Tensor& numbers, const ConstTensor& scales) {
    const ConstTensor bytes = to_host(*gpu_, numbers);
    StoredTensor stored(Encoding::kF8E4M3, bytes.shape(), bytes);
    stored.scales = to_host(*gpu_, scales);
    return decode(stored, DType::kF32);
  }

  /// The values of e4m3 rows are within half a step of those expected, which themselves were
  /// rounded to bf16 on the way: by `slack` of the row's largest.
  void expect_encoded(const Tensor& numbers, const ConstTensor& scales, const Tensor& expected,
                      float slack, const std::string& what) {
    const Tensor found = decoded(numbers, scales);
    const ConstTensor host = to_host(*gpu_, scales);
    const int64_t columns = expected.size(1);
    int64_t wrong = 0;
    for (int64_t row = 0; row < expected.size(0); ++row) {
      const float scale = host.data<float>()[host.numel() > 1 ? row : 0];
      const float* wanted = expected.data<float>() + row * columns;
      float largest = 0;
      for (int64_t i = 0; i < columns; ++i) largest = std::max(largest, std::abs(wanted[i]));
      for (int64_t i = 0; i < columns; ++i) {
        const float most = std::max(std::abs(wanted[i]) / 16, scale * 0x1p-10f) + slack * largest;
        const float error = std::abs(found.data<float>()[row * columns + i] - wanted[i]);
        if (!(error <= most)) ++wrong;
      }
    }
    EXPECT_EQ(wrong, 0) << what;
  }

  LinearWeights pack(Context& ctx, const Twin& weight, const Twin& bias, DType type) {
    return pack_linear(ctx, {{weight.cpu}}, {{bias.cpu}}, type, Quantization::kFp8);
  }
};

}  // namespace flux
