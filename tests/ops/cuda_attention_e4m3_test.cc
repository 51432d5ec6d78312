// Attention in e4m3 on a GPU that has it, against the CPU's in f32 of the rounded values.
#include <algorithm>
#include <vector>

#include "ops/cuda_ops.h"
#include "ops/kernels.h"

namespace flux {
namespace {

struct Heads {
  int64_t q_tokens;
  int64_t k_tokens;
  int64_t heads;
  int64_t dim;
};

class CudaAttentionE4M3 : public CudaOps {
 protected:
  void SetUp() override {
    CudaOps::SetUp();
    if (IsSkipped()) return;
    if (!kernels_of(*gpu_).attends_in_e4m3(DType::kBF16, 128)) {
      GTEST_SKIP() << "the GPU has no attention in e4m3";
    }
    options_.base = ScoreBase::kTwo;
    options_.e4m3 = {kQScale, kKScale};
  }

  /// The queries are the last tokens.
  AttentionPart part_of(const ConstTensor& qkv, const Heads& size) {
    const ConstTensor all = qkv.split_last(3 * size.heads, size.dim);
    return {all.slice(0, size.k_tokens - size.q_tokens, size.k_tokens).slice(1, 0, size.heads),
            all.slice(1, size.heads, 2 * size.heads),
            all.slice(1, 2 * size.heads, 3 * size.heads),
            new_tensor(*gpu_, {size.q_tokens, size.heads, size.dim}, DType::kBF16),
            {},
            {}};
  }
  Tensor on_gpu(float value) {
    const Tensor host = Tensor::allocate({1}, DType::kF32);
    host.data<float>()[0] = value;
    return to_device(*gpu_, host);
  }
  /// f32, each value rounded to a number times the scale.
  static Tensor rounded(const ConstTensor& values, float scale) {
    const Tensor result = to_dtype(values, DType::kF32);
    float* value = result.data<float>();
    for (int64_t i = 0; i < result.numel(); ++i) {
      const Tensor code = Tensor::allocate({1, 1}, DType::kU8);
      code.data<uint8_t>()[0] = encode_e4m3(value[i] / scale);
      const StoredTensor stored(Encoding::kF8E4M3, {1, 1}, code);
      value[i] = decode(stored, DType::kF32).data<float>()[0] * scale;
    }
    return result;
  }
  /// The least scale of values that suits them.
  static float scale_of(const ConstTensor& values) {
    const Tensor wide = to_dtype(values, DType::kF32);
    float largest = 0;
    for (int64_t i = 0; i < wide.numel(); ++i) {
      largest = std::max(largest, std::abs(wide.data<float>()[i]));
    }
    return largest * (1.0f / kLargestE4M3);
  }
  /// qkv: [k_tokens, 3 heads dim] in host memory.
  Tensor expected_of(const Tensor& qkv, const Heads& size) {
    const Tensor all = qkv.split_last(3 * size.heads, size.dim);
    const auto part = [&](int64_t i) {
      return to_dtype(all.slice(1, i * size.heads, (i + 1) * size.heads), DType::kF32);
    };
    const Tensor v = part(2);
    const Tensor q =
        rounded(part(0), kQScale).slice(0, size.k_tokens - size.q_tokens, size.k_tokens);
    AttentionOptions options;
    options.scale = AttentionOptions::kLn2;
    const Tensor out = Tensor::allocate({size.q_tokens, size.heads, size.dim}, DType::kF32);
    attention(*cpu_, q, rounded(part(1), kKScale), rounded(v, scale_of(v)), options, out);
    return out;
  }

  static constexpr float kQScale = 0.01f;
  static constexpr float kKScale = 0.02f;
  AttentionOptions options_;
};

constexpr Heads kSizes[] = {{1, 1, 1, 128},     {64, 64, 1, 128},   {128, 192, 2, 128},
                            {129, 193, 3, 128}, {577, 577, 2, 128}, {300, 815, 1, 128},
                            {200, 1000, 2, 64}, {77, 77, 2, 32},    {50, 401, 1, 16}};

TEST_P(CudaAttentionE4M3, IsThatOfRoundedValues) {
  for (const Heads& size : kSizes) {
    const Twin qkv = random({size.k_tokens, 3 * size.heads * size.dim}, DType::kBF16, 0.0f, 0.6f);
    const Tensor expected = expected_of(qkv.cpu, size);
    for (const std::optional<float> bound : {std::optional<float>(), std::optional<float>(50.0f)}) {
      options_.bound = bound;
      const AttentionPart part = part_of(qkv.gpu, size);
      attention(*gpu_, {&part, 1}, options_);
      const Tensor found = to_dtype(to_host(*gpu_, part.out), DType::kF32);
      // Weights have errors of up to 1/16 each, which average out.
      double squares = 0;
      double errors = 0;
      for (int64_t i = 0; i < expected.numel(); ++i) {
        const double wanted = expected.data<float>()[i];
        squares += wanted * wanted;
        errors += std::pow(found.data<float>()[i] - wanted, 2);
      }
      EXPECT_LE(std::sqrt(errors / squares), 0.03)
          << size.q_tokens << " x " << size.k_tokens << ", heads of " << size.dim
          << (bound ? ", bounded" : "");
    }
  }
}

TEST_P(CudaAttentionE4M3, FindsTheValueOfEachKey) {
  // Each query is a key: its weight is all but one, and so the result that key's value. Until its
  // tile comes, the weights of a row are of much smaller scores.
  struct Case {
    Heads size;
    float spread;
    std::optional<float> bound;
  };
  for (const Case& c : {Case{{193, 193, 2, 128}, 2.0f, {}},
                        {{577, 577, 1, 128}, 2.0f, {}},
                        {{100, 100, 1, 64}, 2.0f, {}},
                        {{577, 577, 2, 128}, 0.5f, 60.0f}}) {
    const Heads& size = c.size;
    const int64_t width = size.heads * size.dim;
    const Twin qkv = random({size.k_tokens, 3 * width}, DType::kBF16, 0.0f, c.spread);
    cast(*cpu_, qkv.cpu.slice(1, width, 2 * width), qkv.cpu.slice(1, 0, width));
    const ConstTensor gpu = to_device(*gpu_, qkv.cpu);
    const AttentionPart part = part_of(gpu, size);
    AttentionOptions sharp = options_;
    sharp.e4m3 = {0.02f, 0.02f};
    sharp.bound = c.bound;
    attention(*gpu_, {&part, 1}, sharp);
    const Tensor found = to_dtype(to_host(*gpu_, part.out), DType::kF32);
    const Tensor v = to_dtype(qkv.cpu.slice(1, 2 * width, 3 * width), DType::kF32);
    const Tensor expected = rounded(v, scale_of(v));
    const float slack = c.bound ? 0.01f * c.spread : 0.0f;
    int64_t wrong = 0;
    for (int64_t i = 0; i < expected.numel(); ++i) {
      const float wanted = expected.data<float>()[i];
      const float error = std::abs(found.data<float>()[i] - wanted);
      if (!(error <= std::abs(wanted) / 128 + slack)) ++wrong;
    }
    EXPECT_EQ(wrong, 0) << size.k_tokens << " tokens, heads of " << size.dim;
  }
}

TEST_P(CudaAttentionE4M3, PartsAreTheSameAlone) {
  std::vector<AttentionPart> parts;
  std::vector<Tensor> alone;
  for (const int64_t tokens : {300, 1, 577, 192, 1000}) {
    const Heads size{tokens, tokens, 2, 128};
    const Twin qkv = random({tokens, 3 * 2 * 128}, DType::kBF16);
    AttentionPart part = part_of(qkv.gpu, size);
    part.v_scale = on_gpu(scale_of(qkv.cpu.slice(1, 512, 768)));
    attention(*gpu_, {&part, 1}, options_);
    alone.push_back(part.out);
    part.out = new_tensor(*gpu_, part.out.shape(), DType::kBF16);
    parts.push_back(part);
  }
  attention(*gpu_, parts, options_);
  for (size_t i = 0; i < parts.size(); ++i) {
    EXPECT_TRUE(same_bytes(*gpu_, parts[i].out, alone[i])) << "part " << i;
    parts[i].v_scale = {};  // found in place of given
  }
  attention(*gpu_, parts, options_);
  for (size_t i = 0; i < parts.size(); ++i) {
    EXPECT_TRUE(same_bytes(*gpu_, parts[i].out, alone[i])) << "part " << i;
  }
}

TEST_P(CudaAttentionE4M3, LinearsGiveEncodedHeads) {
  // The numbers are those of the linear's rows of bf16, and the other columns are the same.
  const int64_t dim = 128;
  ASSERT_TRUE(kernels_of(*gpu_).encodes_heads(dim));
  for (const int64_t heads : {1, 3, 24}) {
    const int64_t depth = 256;
    const Twin weight = random({3 * heads * dim, depth}, DType::kBF16, 0.0f, 0.1f);
    const Twin bias = random({3 * heads * dim}, DType::kBF16);
    const LinearWeights packed =
        pack_linear(*gpu_, {{weight.cpu}}, {{bias.cpu}}, DType::kBF16, Quantization::kFp8);
    for (const int64_t rows : {1, 130, 577}) {
      const Twin x = random({rows, depth}, DType::kBF16);
      HeadNorm norm;
      norm.weight_q = random({dim}, DType::kF32, 1.0f, 0.2f).gpu;
      norm.weight_k = random({dim}, DType::kF32, 1.0f, 0.2f).gpu;
      norm.rope = {random({rows, dim / 2}, DType::kF32).gpu,
                   random({rows, dim / 2}, DType::kF32).gpu};
      norm.q_heads = norm.k_heads = heads;
      Epilogue epilogue;
      epilogue.norm = norm;
      const Tensor all = new_tensor(*gpu_, {rows, 3 * heads * dim}, DType::kBF16);
      linear(*gpu_, x.gpu, packed, epilogue, all);
      const Tensor others = new_tensor(*gpu_, {rows, heads * dim}, DType::kBF16);
      const Tensor numbers = new_tensor(*gpu_, {rows, 2 * heads * dim}, DType::kU8);
      epilogue.norm->encoded = {numbers, kQScale, kKScale};
      linear(*gpu_, x.gpu, packed, epilogue, others);
      const Tensor wide = to_dtype(to_host(*gpu_, all), DType::kF32);
      const ConstTensor found = to_host(*gpu_, numbers);
      int64_t wrong = 0;
      for (int64_t i = 0; i < found.numel(); ++i) {
        const int64_t column = i % (2 * heads * dim);
        const float value = wide.data<float>()[i / (2 * heads * dim) * 3 * heads * dim + column];
        const float scale = column < heads * dim ? kQScale : kKScale;
        if (found.data<uint8_t>()[i] != encode_e4m3(value * (1.0f / scale))) ++wrong;
      }
      EXPECT_EQ(wrong, 0) << heads << " heads, " << rows << " rows";
      const Tensor expected =
          to_dtype(to_host(*gpu_, all).slice(1, 2 * heads * dim, 3 * heads * dim), DType::kF32);
      const Tensor left = to_dtype(to_host(*gpu_, others), DType::kF32);
      EXPECT_TRUE(std::equal(left.data<float>(), left.data<float>() + left.numel(),
                             expected.data<float>()));
    }
  }
}

TEST_P(CudaAttentionE4M3, TakesEncodedHeads) {
  const Heads size{300, 577, 2, 128};
  const Twin qkv = random({577, 3 * 2 * 128}, DType::kBF16, 0.0f, 0.6f);
  const AttentionPart part = part_of(qkv.gpu, size);
  attention(*gpu_, {&part, 1}, options_);
  const Tensor wide = to_dtype(qkv.cpu, DType::kF32);
  const Tensor numbers = Tensor::allocate({577, 4, 128}, DType::kU8);
  for (int64_t i = 0; i < numbers.numel(); ++i) {
    const float value = wide.data<float>()[i / 512 * 768 + i % 512];
    numbers.data<uint8_t>()[i] = encode_e4m3(value * (1.0f / (i % 512 < 256 ? kQScale : kKScale)));
  }
  const ConstTensor on_device = to_device(*gpu_, numbers);
  AttentionPart encoded = part;
  encoded.q = on_device.slice(0, 277, 577).slice(1, 0, 2);
  encoded.k = on_device.slice(1, 2, 4);
  encoded.out = new_tensor(*gpu_, part.out.shape(), DType::kBF16);
  attention(*gpu_, {&encoded, 1}, options_);
  EXPECT_TRUE(same_bytes(*gpu_, encoded.out, part.out));
}

TEST_P(CudaAttentionE4M3, NanStaysInItsRow) {
  const Heads size{200, 200, 1, 128};
  const Twin qkv = random({200, 384}, DType::kBF16);
  qkv.cpu.data<uint16_t>()[7 * 384 + 3] = 0x7fc0;  // of a query
  const ConstTensor gpu = to_device(*gpu_, qkv.cpu);
  const AttentionPart part = part_of(gpu, size);
  attention(*gpu_, {&part, 1}, options_);
  const Tensor found = to_dtype(to_host(*gpu_, part.out), DType::kF32);
  for (int64_t i = 0; i < 200; ++i) {
    for (int64_t j = 0; j < 128; ++j) {
      ASSERT_EQ(std::isnan(found.data<float>()[i * 128 + j]), i == 7) << i << ", " << j;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CudaAttentionE4M3, testing::Values(DType::kBF16),
                         [](const auto& test) { return std::string(name_of(test.param)); });

}  // namespace
}  // namespace flux
