#include <limits>
#include <tuple>

#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/row_reference.h"
#include "support/error.h"

namespace flux {
namespace {

namespace ref = row_reference;

constexpr Activation kActivations[] = {Activation::kNone,    Activation::kGeluTanh,
                                       Activation::kGeluErf, Activation::kQuickGelu,
                                       Activation::kSilu,    Activation::kRelu};

class Elementwise : public testing::TestWithParam<std::tuple<cpu::Isa, DType>> {
 protected:
  DType dtype() const { return std::get<1>(GetParam()); }

  ref::IsaScope isa_{std::get<0>(GetParam())};
  Context ctx_{backend_for(Device{}), 2};
};

TEST_P(Elementwise, ActivationsAreTheReference) {
  // Small steps around zero, then far out on both sides.
  ref::Values inputs;
  for (int i = -2000; i <= 2000; ++i) inputs.push_back(i * 0.006);
  for (const double x : {1e-42, 1e-30, 1e-6, 30.0, 87.0, 89.0, 200.0, 1e4, 1e15}) {
    inputs.push_back(x);
    inputs.push_back(-x);
  }
  const Tensor x = Tensor::allocate({static_cast<int64_t>(inputs.size())}, dtype());
  for (size_t i = 0; i < inputs.size(); ++i) ref::set(x, static_cast<int64_t>(i), inputs[i]);
  for (const Activation kind : kActivations) {
    ref::Values expected = ref::values_of(x);
    for (double& value : expected) value = ref::activation(kind, value);
    const Tensor out = Tensor::allocate(x.shape(), dtype());
    activate(ctx_, x, kind, out);
    ref::expect_close(out, expected, 5e-7);
    const Tensor in_place = ref::copy_of(x);
    activate(ctx_, in_place, kind, in_place);
    EXPECT_TRUE(ref::same_bytes(in_place, out));
  }
}

TEST_P(Elementwise, ActivationsKeepTheirRelativePrecisionBelowZero) {
  if (dtype() != DType::kF32) GTEST_SKIP() << "bfloat16 has no such precision";
  const Tensor x = Tensor::allocate({800}, dtype());
  for (int64_t i = 0; i < 800; ++i) ref::set(x, i, -0.01 * static_cast<double>(i + 1));
  for (const Activation kind :
       {Activation::kGeluTanh, Activation::kGeluErf, Activation::kQuickGelu, Activation::kSilu}) {
    const Tensor out = Tensor::allocate(x.shape(), dtype());
    activate(ctx_, x, kind, out);
    for (int64_t i = 0; i < 800; ++i) {
      const double expected = ref::activation(kind, ref::get(x, i));
      // The argument of e is rounded: its error of 1e-7 is multiplied by its size.
      EXPECT_NEAR(ref::get(out, i) / expected, 1.0, 1e-5) << ref::get(x, i);
    }
  }
}

TEST_P(Elementwise, NanIsNotHidden) {
  const Tensor x = ref::random({40}, dtype(), 1);
  ref::set(x, 3, std::numeric_limits<double>::quiet_NaN());
  ref::set(x, 39, std::numeric_limits<double>::quiet_NaN());
  for (const Activation kind : kActivations) {
    const Tensor out = Tensor::allocate(x.shape(), dtype());
    activate(ctx_, x, kind, out);
    for (int64_t i = 0; i < 40; ++i) EXPECT_EQ(std::isnan(ref::get(out, i)), i == 3 || i == 39);
  }
}

TEST_P(Elementwise, ProductsAndSumsAreTheReference) {
  for (const int64_t n : {1, 5, 16, 33, 768, 40000}) {
    const Tensor a = ref::strided(3, n, 4, dtype());
    const Tensor b = ref::random({3, n}, dtype(), 2);
    ref::Values product = ref::values_of(a);
    ref::Values total = product;
    const ref::Values factors = ref::values_of(b);
    for (size_t i = 0; i < factors.size(); ++i) {
      product[i] *= factors[i];
      total[i] += factors[i];
    }
    const Tensor out = ref::strided(3, n, 2, dtype());
    multiply(ctx_, a, b, out);
    ref::expect_close(out, product, 1e-7);
    add(ctx_, a, b, out);
    ref::expect_close(out, total, 1e-7);
    const Tensor left = ref::copy_of(a);
    add(ctx_, left, b, left);
    EXPECT_TRUE(ref::same_bytes(left, out));
    add(ctx_, a, b, b);
    EXPECT_TRUE(ref::same_bytes(b, out));
  }
}

TEST_P(Elementwise, ThreadsDoNotChangeTheBytes) {
  const Tensor x = ref::random({333, 517}, dtype(), 1, 0.0, 3.0);
  Tensor first;
  for (int threads = 1; threads <= 5; ++threads) {
    Context ctx(backend_for(Device{}), threads);
    const Tensor out = Tensor::allocate(x.shape(), dtype());
    activate(ctx, x, Activation::kGeluTanh, out);
    multiply(ctx, out, x, out);
    add(ctx, x, out, out);
    if (threads == 1) first = out;
    EXPECT_TRUE(ref::same_bytes(out, first)) << threads;
  }
}

TEST_P(Elementwise, StoresRoundToNearestEven) {
  if (dtype() != DType::kBF16) GTEST_SKIP() << "float32 is not rounded";
  // 1 + 2^-7 j is a bfloat16; the product of two of them is not, and often lies half way.
  const Tensor a = Tensor::allocate({128, 128}, dtype());
  const Tensor b = Tensor::allocate({128, 128}, dtype());
  for (int64_t i = 0; i < 128 * 128; ++i) {
    ref::set(a, i, 1.0 + static_cast<double>(i / 128) / 128.0);
    ref::set(b, i, 1.0 + static_cast<double>(i % 128) / 128.0);
  }
  const Tensor out = Tensor::allocate(a.shape(), dtype());
  multiply(ctx_, a, b, out);
  for (int64_t i = 0; i < 128 * 128; ++i) {
    const BFloat16 expected(static_cast<float>(ref::get(a, i) * ref::get(b, i)));
    ASSERT_EQ(out.data<BFloat16>()[i].bits, expected.bits) << i;
  }
}

TEST_P(Elementwise, EmbeddingPicksRows) {
  const std::vector<int32_t> ids = {3, 0, 48, 3, 17};
  for (const DType table_dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const Tensor table = to_dtype(ref::random({49, 37}, DType::kF32, 1), table_dtype);
    const Tensor exact = to_dtype(table, DType::kF32);
    const Tensor out = Tensor::allocate({5, 37}, dtype());
    embedding(ctx_, table, ids, out);
    for (int64_t i = 0; i < 5; ++i) {
      for (int64_t j = 0; j < 37; ++j) {
        const float value = exact[ids[static_cast<size_t>(i)]].data<float>()[j];
        ASSERT_EQ(ref::get(out[i], j), static_cast<double>(round_to(dtype(), value)));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Elementwise,
                         testing::Combine(testing::ValuesIn(ref::isas()),
                                          testing::Values(DType::kF32, DType::kBF16)),
                         [](const auto& test) {
                           return ref::name_of_isa(std::get<0>(test.param)) + "_" +
                                  std::string(name_of(std::get<1>(test.param)));
                         });

TEST(ElementwiseArguments, AreChecked) {
  Context ctx(backend_for(Device{}), 1);
  const Tensor x = ref::random({4, 8}, DType::kF32, 1);
  const Tensor half = ref::random({4, 8}, DType::kBF16, 1);
  EXPECT_THROW(add(ctx, x, half, x), Error);
  EXPECT_THROW(multiply(ctx, x, x, x.slice(0, 0, 3)), Error);
  EXPECT_THROW(activate(ctx, x.slice(1, 0, 4), Activation::kSilu, x.slice(1, 0, 4)), Error);
  const std::vector<int32_t> outside = {0, 4};
  const std::vector<int32_t> negative = {0, -1};
  const Tensor out = Tensor::allocate({2, 8}, DType::kF32);
  EXPECT_THROW(embedding(ctx, x, outside, out), Error);
  EXPECT_THROW(embedding(ctx, x, negative, out), Error);
  EXPECT_THROW(embedding(ctx, x, outside, out.slice(0, 0, 1)), Error);
}

}  // namespace
}  // namespace flux
