// Ops whose rows are e4m3, on a GPU that multiplies them, against the CPU's with the same values in
// f32.
#include "ops/cuda_e4m3.h"

#include <utility>
#include <vector>

namespace flux {
namespace {

constexpr std::initializer_list<int64_t> kCounts = {1, 63, 65, 192, 200, 577};

TEST_P(CudaE4M3, LinearsMultiplyTheValues) {
  struct Case {
    int64_t in, out;
  };
  for (const Case& c : {Case{256, 640}, {3072, 3072}, {16, 48}, {1536, 9216}}) {
    const Twin weight =
        random({c.out, c.in}, DType::kBF16, 0.0f, 1.0f / std::sqrt(static_cast<float>(c.in)));
    const Twin bias = random({c.out}, DType::kBF16);
    const LinearWeights on_cpu = pack(*cpu_, weight, bias, DType::kF32);
    const LinearWeights weights = pack(*gpu_, weight, bias, DType::kBF16);
    ASSERT_TRUE(weights.takes_e4m3());
    for (const bool gated : {false, true}) {
      std::vector<LinearPart> parts;
      for (const int64_t count : kCounts) {
        const Encoded x = encoded(count, c.in);
        const Tensor expected = Tensor::allocate({count, c.out}, DType::kF32);
        LinearPart part{x.numbers, &weights, {}, new_rows(count, c.out, DType::kBF16),
                        x.scales,  {}};
        Epilogue epilogue;
        if (gated) {
          const Twin gate = random({c.out}, DType::kF32);
          const Twin residual = random({count, c.out}, DType::kBF16);
          epilogue.gate = gate.cpu;
          epilogue.residual = to_dtype(residual.cpu, DType::kF32);
          part.epilogue.gate = gate.gpu;
          part.epilogue.residual = residual.gpu;
        }
        linear(*cpu_, x.values, on_cpu, epilogue, expected);
        const Tensor alone = new_rows(count, c.out, DType::kBF16);
        LinearPart single = part;
        single.out = alone;
        linear(*gpu_, {&single, 1});
        expect_same({expected, alone}, fmt::format("{}x{}, {} rows", c.in, c.out, count));
        parts.push_back(part);
        linear(*gpu_, parts);
        EXPECT_TRUE(same_bytes(*gpu_, part.out, alone)) << count << " rows in company";
      }
    }
  }
}

TEST_P(CudaE4M3, StoredNumbersAreKept) {
  const Twin values = random({96, 64}, DType::kF32, 0.0f, 30.0f);
  const Tensor numbers = Tensor::allocate({96, 64}, DType::kU8);
  for (int64_t i = 0; i < numbers.numel(); ++i) {
    numbers.data<uint8_t>()[i] = encode_e4m3(values.cpu.data<float>()[i]);
  }
  StoredTensor stored(Encoding::kF8E4M3, numbers.shape(), numbers);
  const Tensor scale = Tensor::allocate({1}, DType::kF32);
  scale.data<float>()[0] = 0.03f;
  stored.scales = scale;
  const Twin plain = random({32, 64}, DType::kBF16);
  const std::vector<StoredTensor> weights = {stored, plain.cpu};
  const Encoded x = encoded(70, 64);
  const Tensor expected = Tensor::allocate({70, 128}, DType::kF32);
  linear(*cpu_, x.values, pack_linear(*cpu_, weights, {}, DType::kF32, Quantization::kFp8), {},
         expected);
  const LinearWeights packed = pack_linear(*gpu_, weights, {}, DType::kBF16, Quantization::kFp8);
  const LinearPart part{x.numbers, &packed, {}, new_rows(70, 128, DType::kBF16), x.scales, {}};
  linear(*gpu_, {&part, 1});
  expect_same({expected, part.out}, "stored numbers");
}

TEST_P(CudaE4M3, SizesThatTheKernelCannotTakeAreComputedWithTheValues) {
  for (const auto& [in, out] : {std::pair<int64_t, int64_t>{36, 48}, {64, 20}, {40, 32}}) {
    const Twin weight = random({out, in}, DType::kBF16, 0.0f, 0.2f);
    const Twin bias = random({out}, DType::kBF16);
    const LinearWeights packed = pack(*gpu_, weight, bias, DType::kBF16);
    EXPECT_FALSE(packed.takes_e4m3());
    const Twin x = rows(70, in, 0);
    const Twin result = rows(70, out, 0);
    linear(*cpu_, x.cpu, pack(*cpu_, weight, bias, DType::kBF16), {}, result.cpu);
    linear(*gpu_, x.gpu, packed, {}, result.gpu);
    expect_same(result, fmt::format("{}x{}", in, out));
  }
}

TEST_P(CudaE4M3, RowsOfTAreEncodedByTheLinear) {
  const Twin weight = random({128, 256}, DType::kBF16, 0.0f, 0.1f);
  const LinearWeights packed =
      pack_linear(*gpu_, {{weight.cpu}}, {}, DType::kBF16, Quantization::kFp8);
  const Twin x = rows(66, 256, 8);
  const StoredTensor stored = encode_e4m3(std::vector<StoredTensor>{x.cpu}, DType::kBF16, 2)[0];
  const LinearPart before{on_gpu(stored.data),         &packed, {}, new_rows(66, 128, DType::kBF16),
                          {on_gpu(stored.scales), {}}, {}};
  linear(*gpu_, {&before, 1});
  for (const Activation activation : {Activation::kNone, Activation::kGeluTanh}) {
    const Tensor out = new_rows(66, 128, DType::kBF16);
    Epilogue epilogue;
    epilogue.activation = activation;
    linear(*gpu_, x.gpu, packed, epilogue, out);
    const Tensor expected = new_rows(66, 128, DType::kBF16);
    activate(*gpu_, before.out, activation, expected);
    EXPECT_TRUE(same_bytes(*gpu_, out, expected));
  }
}

TEST_P(CudaE4M3, GeluGivesE4M3) {
  for (const int64_t out : {256, 1024, 6160}) {
    const Twin weight = random({out, 512}, DType::kBF16, 0.0f, 0.05f);
    const Twin bias = random({out}, DType::kBF16);
    const LinearWeights on_cpu = pack(*cpu_, weight, bias, DType::kF32);
    const LinearWeights packed = pack(*gpu_, weight, bias, DType::kBF16);
    for (const int64_t count : kCounts) {
      const Encoded x = encoded(count, 512);
      const Tensor expected = Tensor::allocate({count, out}, DType::kF32);
      Epilogue gelu;
      gelu.activation = Activation::kGeluTanh;
      linear(*cpu_, x.values, on_cpu, gelu, expected);
      const LinearPart part{x.numbers, &packed,          gelu, new_rows(count, out, DType::kU8),
                            x.scales,  new_scales(count)};
      linear(*gpu_, {&part, 1});
      expect_encoded(part.out, part.out_scales.scales, expected, 0.01f,
                     fmt::format("{} rows", count));
      LinearPart raised = part;
      raised.epilogue.least_scale = random({1}, DType::kF32, 100.0f).gpu;
      linear(*gpu_, {&raised, 1});
      const float least = to_host(*gpu_, raised.epilogue.least_scale).data<float>()[0];
      const ConstTensor scales = to_host(*gpu_, raised.out_scales.scales);
      EXPECT_EQ(*std::min_element(scales.data<float>(), scales.data<float>() + count), least);
    }
  }
}

TEST_P(CudaE4M3, NormsOfHeadsAndTheScaleOfTheOthers) {
  for (const int64_t dim : {128, 64}) {
    const int64_t columns = 3 * 3 * dim;
    const Twin weight = random({columns, 256}, DType::kBF16, 0.0f, 0.06f);
    const Twin bias = random({columns}, DType::kBF16);
    const LinearWeights on_cpu = pack(*cpu_, weight, bias, DType::kF32);
    const LinearWeights packed = pack(*gpu_, weight, bias, DType::kBF16);
    const Twin weight_q = random({dim}, DType::kF32, 1.0f, 0.1f);
    const Twin weight_k = random({dim}, DType::kF32, 1.0f, 0.1f);
    for (const int64_t count : kCounts) {
      const Encoded x = encoded(count, 256);
      const Twin cos = random({count, dim / 2}, DType::kF32);
      const Twin sin = random({count, dim / 2}, DType::kF32);
      Epilogue on_host;
      on_host.norm = {weight_q.cpu, weight_k.cpu, 1e-6f, {cos.cpu, sin.cpu}, 3, 3, {}};
      const Tensor expected = Tensor::allocate({count, columns}, DType::kF32);
      linear(*cpu_, x.values, on_cpu, on_host, expected);
      const Tensor zero = Tensor::allocate({1}, DType::kF32);
      zero.data<float>()[0] = 0.0f;
      LinearPart part{x.numbers, &packed, {}, new_rows(count, columns, DType::kBF16), x.scales, {}};
      part.epilogue.norm = {weight_q.gpu, weight_k.gpu, 1e-6f, {cos.gpu, sin.gpu}, 3, 3,
                            on_gpu(zero)};
      linear(*gpu_, {&part, 1});
      expect_same({expected, part.out}, fmt::format("{} rows", count));
      const ConstTensor found = to_host(*gpu_, part.out);
      float largest = 0;
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t j = 2 * 3 * dim; j < columns; ++j) {
          const auto value = static_cast<float>(found.data<BFloat16>()[i * columns + j]);
          largest = std::max(largest, std::abs(value));
        }
      }
      const ConstTensor scale = to_host(*gpu_, part.epilogue.norm->others_scale);
      EXPECT_FLOAT_EQ(scale.data<float>()[0] * kLargestE4M3, largest) << count << " rows";
    }
  }
}

TEST_P(CudaE4M3, LayerNormGivesE4M3) {
  for (const int64_t n : {64, 256, 3072, 4096}) {
    const Twin scale = random({n}, DType::kF32, 0.0f, 0.3f);
    const Twin shift = random({n}, DType::kF32);
    std::vector<LayerNormPart> parts;
    std::vector<Tensor> expected;
    for (const int64_t count : {1, 5, 700}) {
      const Twin x = random({count, n}, DType::kBF16, 1.0f, 3.0f);
      LayerNormParams params;
      params.scale = scale.cpu;
      params.shift = shift.cpu;
      expected.push_back(Tensor::allocate({count, n}, DType::kF32));
      layer_norm(*cpu_, to_dtype(x.cpu, DType::kF32), params, expected.back());
      params.scale = scale.gpu;
      params.shift = shift.gpu;
      parts.push_back({x.gpu, params, new_rows(count, n, DType::kU8), new_scales(count)});
    }
    layer_norm(*gpu_, parts);
    for (size_t i = 0; i < parts.size(); ++i) {
      const LayerNormPart& part = parts[i];
      expect_encoded(part.out, part.out_scales.scales, expected[i], 1e-3f,
                     fmt::format("{} columns", n));
      const ConstTensor scales = to_host(*gpu_, part.out_scales.scales);
      const ConstTensor norms = to_host(*gpu_, part.out_scales.norms);
      const Tensor values = decoded(part.out, part.out_scales.scales);
      for (int64_t row = 0; row < values.size(0); ++row) {
        const float* wanted = expected[i].data<float>() + row * n;
        float largest = 0;
        double squares = 0;
        for (int64_t j = 0; j < n; ++j) {
          largest = std::max(largest, std::abs(wanted[j]));
          squares += std::pow(values.data<float>()[row * n + j], 2);
        }
        EXPECT_NEAR(scales.data<float>()[row] * kLargestE4M3, largest, 1e-4f * largest);
        EXPECT_GE(norms.data<float>()[row], std::sqrt(squares));
        EXPECT_LE(norms.data<float>()[row], 1.1 * std::sqrt(squares));
      }
    }
  }
}

TEST_P(CudaE4M3, AttentionGivesE4M3) {
  for (const int64_t dim : {128, 64}) {
    const int64_t tokens = 300;
    const Twin qkv = random({tokens, 3 * 2 * dim}, DType::kBF16);
    const Tensor heads = qkv.cpu.split_last(6, dim);
    const Tensor on_gpu_heads = qkv.gpu.split_last(6, dim);
    const Tensor expected = Tensor::allocate({tokens, 2, dim}, DType::kBF16);
    AttentionOptions options;
    options.scale = 0.1f;
    attention(*cpu_, heads.slice(1, 0, 2), heads.slice(1, 2, 4), heads.slice(1, 4, 6), options,
              expected);
    for (const int64_t scales : {int64_t{1}, tokens}) {
      const Tensor host = Tensor::allocate({scales}, DType::kF32);
      for (int64_t i = 0; i < scales; ++i) {
        host.data<float>()[i] = (6.0f + static_cast<float>(i % 3)) / kLargestE4M3;
      }
      const Tensor out = new_rows(tokens, 2 * dim, DType::kU8);
      const AttentionPart part{on_gpu_heads.slice(1, 0, 2), on_gpu_heads.slice(1, 2, 4),
                               on_gpu_heads.slice(1, 4, 6), out.split_last(2, dim), on_gpu(host)};
      attention(*gpu_, {&part, 1}, options);
      const Tensor wide = to_dtype(expected, DType::kF32).reshape({tokens, 2 * dim});
      expect_encoded(out, part.out_scales, wide, 0.01f, fmt::format("heads of {}", dim));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CudaE4M3, testing::Values(DType::kBF16),
                         [](const auto& test) { return std::string(name_of(test.param)); });

}  // namespace
}  // namespace flux
