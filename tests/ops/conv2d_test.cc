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
  ConvSize size = ConvSize::kSame;
};

std::string_view name_of(ConvSize size) {
  return size == ConvSize::kDoubled ? "_doubled" : size == ConvSize::kHalved ? "_halved" : "";
}

class Conv2dTest : public testing::TestWithParam<std::tuple<ref::Compute, ConvCase>> {
 protected:
  Conv2dTest() : path_(std::get<0>(GetParam()).path) {
    const ConvCase& shape = std::get<1>(GetParam());
    const auto fan_in = static_cast<double>(shape.in * shape.kernel * shape.kernel);
    x = ref::random_tensor({shape.height, shape.width, shape.in}, dtype(), 1);
    weight = ref::random_tensor({shape.out, shape.in, shape.kernel, shape.kernel}, dtype(), 2,
                                1.0 / std::sqrt(fan_in));
    bias = ref::random_tensor({shape.out}, DType::kF32, 3);
    size = shape.size;
    result = {conv_side(size, shape.height), conv_side(size, shape.width), shape.out};
  }

  DType dtype() const { return std::get<0>(GetParam()).dtype; }
  Tensor run(int threads, const Tensor& out) const {
    Context ctx(backend_for(Device{}), threads);
    conv2d(ctx, x, pack_conv2d(ctx, weight, bias, dtype(), size), residual, out);
    return out;
  }
  void expect_reference() const {
    const Tensor out = run(2, ref::random_tensor(result, dtype(), 4));
    const ref::Difference difference =
        ref::compare(out, ref::conv2d(x, weight, bias, size, residual));
    // Minimal filtering loses a digit of what summing in f32 leaves.
    const double tolerance = dtype() == DType::kF32 ? 1e-5 : ref::tolerance(dtype());
    EXPECT_LE(difference.largest, tolerance * difference.scale);
  }

  Tensor x;
  Tensor weight;
  Tensor bias;
  Shape result;
  ConvSize size = ConvSize::kSame;
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

constexpr ConvCase kConvCases[] = {{1, 1, 1, 1, 1},
                                   {5, 7, 3, 4, 3},
                                   {9, 33, 16, 24, 3},
                                   {17, 35, 20, 3, 3},
                                   {10, 40, 8, 140, 3},
                                   {8, 32, 17, 16, 1},
                                   {6, 9, 5, 6, 5},
                                   {12, 34, 130, 130, 1},
                                   {1, 1, 2, 2, 3, ConvSize::kDoubled},
                                   {5, 17, 6, 7, 3, ConvSize::kDoubled},
                                   {9, 34, 16, 130, 3, ConvSize::kDoubled},
                                   {6, 5, 4, 3, 5, ConvSize::kDoubled},
                                   {4, 3, 4, 4, 7, ConvSize::kDoubled},
                                   {3, 4, 5, 6, 1, ConvSize::kDoubled},
                                   {5, 6, 520, 8, 3},
                                   {7, 33, 16, 16, 3},
                                   {13, 70, 40, 150, 3},
                                   {5, 6, 300, 24, 3},
                                   {8, 9, 32, 40, 3, ConvSize::kDoubled},
                                   {2, 2, 1, 1, 3, ConvSize::kHalved},
                                   {6, 14, 3, 4, 3, ConvSize::kHalved},
                                   {18, 66, 16, 140, 3, ConvSize::kHalved},
                                   {34, 130, 40, 24, 3, ConvSize::kHalved},
                                   {4, 6, 520, 8, 3, ConvSize::kHalved},
                                   {10, 12, 5, 6, 5, ConvSize::kHalved},
                                   {10, 12, 5, 6, 1, ConvSize::kHalved}};

INSTANTIATE_TEST_SUITE_P(Shapes, Conv2dTest,
                         testing::Combine(testing::ValuesIn(ref::computes()),
                                          testing::ValuesIn(kConvCases)),
                         [](const auto& test) {
                           const ConvCase& shape = std::get<1>(test.param);
                           return fmt::format("{}_{}x{}x{}to{}k{}{}",
                                              ref::name_of_compute(std::get<0>(test.param)),
                                              shape.height, shape.width, shape.in, shape.out,
                                              shape.kernel, name_of(shape.size));
                         });

TEST(Conv2dChecks, NameWhatIsWrong) {
  Context ctx(backend_for(Device{}), 1);
  const Tensor weight = ref::random_tensor({4, 3, 3, 3}, DType::kF32, 1);
  const Tensor bias = ref::random_tensor({4}, DType::kF32, 1);
  const Conv2dWeights weights = pack_conv2d(ctx, weight, bias, DType::kF32);
  const Conv2dWeights doubling = pack_conv2d(ctx, weight, bias, DType::kF32, ConvSize::kDoubled);
  const Conv2dWeights halving = pack_conv2d(ctx, weight, bias, DType::kF32, ConvSize::kHalved);
  const Tensor x = ref::random_tensor({6, 5, 3}, DType::kF32, 1);
  const Tensor out = ref::random_tensor({6, 5, 4}, DType::kF32, 1);
  try {
    conv2d(ctx, x, doubling, {}, out);
    FAIL() << "nothing thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInternal);
    EXPECT_STREQ(error.what(), "conv2d: out is f32[6, 5, 4], but [12, 10, 4] is needed");
  }
  EXPECT_THROW(conv2d(ctx, x, halving, {}, ref::random_tensor({3, 2, 4}, DType::kF32, 1)), Error);
  EXPECT_THROW(conv2d(ctx, out, weights, {}, out), Error);
  EXPECT_THROW(conv2d(ctx, x, weights, x, out), Error);
  EXPECT_THROW(
      pack_conv2d(ctx, ref::random_tensor({4, 3, 2, 2}, DType::kF32, 1), bias, DType::kF32), Error);
  EXPECT_THROW(pack_conv2d(ctx, weight, ref::random_tensor({3}, DType::kF32, 1), DType::kF32),
               Error);
}

}  // namespace
}  // namespace flux
