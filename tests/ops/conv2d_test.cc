#include <gtest/gtest.h>

#include "ops/product_reference.h"
#include "ops/registry.h"
#include "support/error.h"

namespace flux {
namespace {

namespace ref = product_reference;

struct ConvCase {
  int64_t height;
  int64_t width;
  int64_t in;
  int64_t out;
  int64_t kernel;
  bool upsample;
};

class Conv2dTest : public testing::TestWithParam<std::tuple<ref::Compute, ConvCase>> {
 protected:
  Conv2dTest() : path_(std::get<0>(GetParam()).path) {
    const ConvCase& shape = std::get<1>(GetParam());
    const auto fan_in = static_cast<double>(shape.in * shape.kernel * shape.kernel);
    x = ref::random_tensor({shape.height, shape.width, shape.in}, dtype(), 1);
    weight = ref::random_tensor({shape.out, shape.in, shape.kernel, shape.kernel}, dtype(), 2,
                                1.0 / std::sqrt(fan_in));
    bias = ref::random_tensor({shape.out}, DType::kF32, 3);
    const int64_t scale = shape.upsample ? 2 : 1;
    result = {shape.height * scale, shape.width * scale, shape.out};
    upsample = shape.upsample;
  }

  DType dtype() const { return std::get<0>(GetParam()).dtype; }
  Tensor run(int threads, const Tensor& out) const {
    Context ctx(backend_for(Device{}), threads);
    conv2d(ctx, x, pack_conv2d(ctx, weight, bias, dtype(), upsample), residual, out);
    return out;
  }
  void expect_reference() const {
    const Tensor out = run(2, ref::random_tensor(result, dtype(), 4));
    const ref::Difference difference =
        ref::compare(out, ref::conv2d(x, weight, bias, upsample, residual));
    // Minimal filtering loses a digit of what summing in f32 leaves.
    const double tolerance = dtype() == DType::kF32 ? 1e-5 : ref::tolerance(dtype());
    EXPECT_LE(difference.largest, tolerance * difference.scale);
  }

  Tensor x;
  Tensor weight;
  Tensor bias;
  Shape result;
  bool upsample = false;
  Tensor residual;

 private:
  ref::Bf16PathScope path_;
};

TEST_P(Conv2dTest, MatchesTheReference) { expect_reference(); }

TEST_P(Conv2dTest, AddsTheResidual) {
  residual = ref::random_tensor(result, dtype(), 5);
  expect_reference();
}

TEST_P(Conv2dTest, ResidualMayBeTheOutput) {
  residual = ref::random_tensor(result, dtype(), 5);
  const Tensor apart = run(2, Tensor::allocate(result, dtype()));
  EXPECT_TRUE(ref::same_bytes(run(2, residual), apart));
}

TEST_P(Conv2dTest, IsTheSameForAnyNumberOfThreads) {
  const Tensor first = run(1, Tensor::allocate(result, dtype()));
  for (int threads = 2; threads <= 5; ++threads) {
    EXPECT_TRUE(ref::same_bytes(run(threads, Tensor::allocate(result, dtype())), first))
        << threads << " threads";
  }
}

constexpr ConvCase kConvCases[] = {
    {1, 1, 1, 1, 1, false},    {5, 7, 3, 4, 3, false},       {9, 33, 16, 24, 3, false},
    {17, 35, 20, 3, 3, false}, {10, 40, 8, 140, 3, false},   {8, 32, 17, 16, 1, false},
    {6, 9, 5, 6, 5, false},    {12, 34, 130, 130, 1, false}, {1, 1, 2, 2, 3, true},
    {5, 17, 6, 7, 3, true},    {9, 34, 16, 130, 3, true},    {6, 5, 4, 3, 5, true},
    {4, 3, 4, 4, 7, true},     {3, 4, 5, 6, 1, true},        {5, 6, 520, 8, 3, false},
    {7, 33, 16, 16, 3, false}, {13, 70, 40, 150, 3, false},  {5, 6, 300, 24, 3, false},
    {8, 9, 32, 40, 3, true}};

INSTANTIATE_TEST_SUITE_P(Shapes, Conv2dTest,
                         testing::Combine(testing::ValuesIn(ref::computes()),
                                          testing::ValuesIn(kConvCases)),
                         [](const auto& test) {
                           const ConvCase& shape = std::get<1>(test.param);
                           return fmt::format("{}_{}x{}x{}to{}k{}{}",
                                              ref::name_of_compute(std::get<0>(test.param)),
                                              shape.height, shape.width, shape.in, shape.out,
                                              shape.kernel, shape.upsample ? "_doubled" : "");
                         });

TEST(Conv2dChecks, NameWhatIsWrong) {
  Context ctx(backend_for(Device{}), 1);
  const Tensor weight = ref::random_tensor({4, 3, 3, 3}, DType::kF32, 1);
  const Tensor bias = ref::random_tensor({4}, DType::kF32, 1);
  const Conv2dWeights weights = pack_conv2d(ctx, weight, bias, DType::kF32);
  const Conv2dWeights doubling = pack_conv2d(ctx, weight, bias, DType::kF32, true);
  const Tensor x = ref::random_tensor({6, 5, 3}, DType::kF32, 1);
  const Tensor out = ref::random_tensor({6, 5, 4}, DType::kF32, 1);
  try {
    conv2d(ctx, x, doubling, {}, out);
    FAIL() << "nothing thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInternal);
    EXPECT_STREQ(error.what(), "conv2d: out is f32[6, 5, 4], but [12, 10, 4] is needed");
  }
  EXPECT_THROW(conv2d(ctx, out, weights, {}, out), Error);
  EXPECT_THROW(conv2d(ctx, x, weights, x, out), Error);
  EXPECT_THROW(
      pack_conv2d(ctx, ref::random_tensor({4, 3, 2, 2}, DType::kF32, 1), bias, DType::kF32), Error);
  EXPECT_THROW(pack_conv2d(ctx, weight, ref::random_tensor({3}, DType::kF32, 1), DType::kF32),
               Error);
}

}  // namespace
}  // namespace flux
