// Linears whose weights stay encoded have the bits of the same linears decoded beforehand.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "ops/cuda_library.h"
#include "ops/kernels.h"
#include "ops/ops.h"
#include "ops/random_encoded.h"
#include "ops/registry.h"
#include "tensor/encoding.h"

namespace flux {
namespace {

constexpr int64_t kDepth = 512;

Tensor random_rows(int64_t rows, DType dtype) {
  std::mt19937 generator(7);
  std::normal_distribution<float> normal;
  const Tensor values = Tensor::allocate({rows, kDepth}, DType::kF32);
  for (int64_t i = 0; i < values.numel(); ++i) values.data<float>()[i] = normal(generator);
  return to_dtype(values, dtype);
}

struct Setting {
  Encoding encoding;
  DType dtype;
  bool on_gpu;
};

class EncodedLinear : public ::testing::TestWithParam<Setting> {};

TEST_P(EncodedLinear, HasTheBitsOfTheDecodedOne) {
  const auto& [encoding, dtype, on_gpu] = GetParam();
  if (on_gpu && !has_cuda()) GTEST_SKIP() << "there is no GPU";
  Context ctx(backend_for(on_gpu ? Device{Device::Kind::kCuda, 0} : Device{}), 2);
  // Two stacked, and a plain one beside them, as a checkpoint may have them.
  const Tensor plain = Tensor::allocate({24, kDepth}, DType::kF32);
  for (int64_t i = 0; i < plain.numel(); ++i) {
    plain.data<float>()[i] = 0.001f * static_cast<float>(i % 97);
  }
  const std::vector<StoredTensor> stored = {random_encoded(encoding, 136, kDepth, 1),
                                            random_encoded(encoding, 96, kDepth, 2), plain};
  std::vector<StoredTensor> decoded;
  for (const StoredTensor& weight : stored) decoded.emplace_back(decode(weight, dtype));
  const Tensor bias = Tensor::allocate({136}, DType::kF32);
  for (int64_t i = 0; i < 136; ++i) bias.data<float>()[i] = 0.5f;
  const std::vector<ConstTensor> biases = {bias, {}, {}};
  const LinearWeights kept = pack_linear(ctx, stored, biases, dtype);
  const LinearWeights whole = pack_linear(ctx, decoded, biases, dtype);
  Epilogue epilogue;
  epilogue.activation = Activation::kGeluTanh;
  for (const int64_t rows : {1, 5, 100, 700}) {
    const Tensor x = to_device(ctx, random_rows(rows, dtype));
    std::vector<ConstTensor> results;
    for (const LinearWeights* weights : {&kept, &whole}) {
      const Tensor out = new_tensor(ctx, {rows, 256}, dtype);
      linear(ctx, x, *weights, epilogue, out);
      results.push_back(to_host(ctx, out));
    }
    EXPECT_EQ(
        std::memcmp(results[0].raw(), results[1].raw(), static_cast<size_t>(results[0].bytes())), 0)
        << rows << " rows";
  }
  // It takes the room of the bytes that are stored.
  int64_t bytes = 0;
  for (const StoredTensor& weight : stored) bytes += weight.bytes();
  EXPECT_LE(kept.packed->bytes(), bytes + 2 * 4 * 256);
}

TEST(QuantizedLinear, HasTheValuesOfWeightsWithAScaleForEachRow) {
  const Tensor plain = random_rows(48, DType::kF32);
  for (int64_t i = 0; i < plain.numel(); ++i) {
    plain.data<float>()[i] *= std::pow(10.0f, static_cast<float>(i / kDepth % 9) - 6.0f);
  }
  std::fill_n(plain.data<float>(), kDepth, 0.0f);  // a row of zeros
  const std::vector<StoredTensor> weights = {plain,
                                             random_encoded(Encoding::kF8E4M3, 16, kDepth, 1),
                                             random_encoded(Encoding::kQ4K, 16, kDepth, 1)};
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const std::vector<StoredTensor> encoded = encode_e4m3(weights, dtype, 2);
    for (const StoredTensor& weight : encoded) EXPECT_EQ(weight.encoding, Encoding::kF8E4M3);
    EXPECT_EQ(encoded[1].data.raw(), weights[1].data.raw()) << "as stored";
    for (const size_t i : {0u, 2u}) {
      const Tensor wanted = to_dtype(decode(weights[i], dtype), DType::kF32);
      const Tensor found = decode(encoded[i], DType::kF32);
      for (int64_t j = 0; j < wanted.numel(); ++j) {
        const float scale = encoded[i].scales.data<float>()[j / kDepth];
        const float value = wanted.data<float>()[j];
        // Half a step, of 3 bits or at the smallest exponent.
        const float most = std::max(std::abs(value) * 0x1p-4f, scale * 0x1p-10f);
        ASSERT_NEAR(found.data<float>()[j], value, most * 1.001f) << i << " " << j;
      }
    }
    Context ctx(backend_for(Device{}), 2);
    const LinearWeights quantized = pack_linear(ctx, weights, {}, dtype, Quantization::kFp8);
    EXPECT_FALSE(quantized.takes_e4m3());
    const LinearWeights stored = pack_linear(ctx, encoded, {}, dtype);
    const Tensor x = random_rows(5, dtype);
    const Tensor out = Tensor::allocate({5, 80}, dtype);
    const Tensor expected = Tensor::allocate({5, 80}, dtype);
    linear(ctx, x, quantized, {}, out);
    linear(ctx, x, stored, {}, expected);
    EXPECT_EQ(std::memcmp(out.raw(), expected.raw(), static_cast<size_t>(out.bytes())), 0);
  }
}

std::vector<Setting> settings() {
  std::vector<Setting> all;
  for (const EncodingInfo& info : kEncodings) {
    if (info.encoding == Encoding::kPlain) continue;
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const bool on_gpu : {false, true}) all.push_back({info.encoding, dtype, on_gpu});
    }
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Encodings, EncodedLinear, ::testing::ValuesIn(settings()),
                         [](const auto& test) {
                           return std::string(info_of(test.param.encoding).name) + "_" +
                                  std::string(name_of(test.param.dtype)) +
                                  (test.param.on_gpu ? "_cuda" : "_cpu");
                         });

}  // namespace
}  // namespace flux
