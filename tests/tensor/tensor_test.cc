#include "tensor/tensor.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "support/error.h"
#include "tensor/format.h"

namespace flux {
namespace {

TEST(BFloat16, RoundsToNearestEven) {
  EXPECT_EQ(static_cast<float>(BFloat16(1.0f)), 1.0f);
  EXPECT_EQ(static_cast<float>(BFloat16(1.0f + 0x1p-8f)), 1.0f);                // tie, to even
  EXPECT_EQ(static_cast<float>(BFloat16(1.0f + 3 * 0x1p-8f)), 1.0f + 0x1p-6f);  // tie, to even
  EXPECT_EQ(static_cast<float>(BFloat16(3504.0f)), 3504.0f);
  EXPECT_TRUE(std::isnan(static_cast<float>(BFloat16(std::nanf("")))));
  EXPECT_TRUE(std::isinf(static_cast<float>(BFloat16(3.4e38f))));
}

TEST(Float16, EveryValueSurvivesARoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    Float16 half;
    half.bits = static_cast<uint16_t>(bits);
    const auto value = static_cast<float>(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(static_cast<float>(Float16(value))));
    } else {
      EXPECT_EQ(Float16(value).bits, half.bits) << value;
    }
  }
}

TEST(Float16, RoundsToNearestEven) {
  EXPECT_EQ(static_cast<float>(Float16(1.0f + 0x1p-11f)), 1.0f);
  EXPECT_EQ(static_cast<float>(Float16(1.0f + 3 * 0x1p-11f)), 1.0f + 0x1p-9f);
  EXPECT_EQ(static_cast<float>(Float16(65519.0f)), 65504.0f);
  EXPECT_TRUE(std::isinf(static_cast<float>(Float16(65520.0f))));
  EXPECT_EQ(static_cast<float>(Float16(0x1p-25f)), 0.0f);
  EXPECT_EQ(static_cast<float>(Float16(0x1.8p-25f)), 0x1p-24f);
}

TEST(Tensor, SlicesAndSplitsAreViews) {
  std::vector<float> values(24);
  std::iota(values.begin(), values.end(), 0.0f);
  const Tensor tensor(values.data(), DType::kF32, {4, 6});
  const Tensor part = tensor.slice(1, 2, 4);
  EXPECT_EQ(part.shape(), (Shape{4, 2}));
  EXPECT_FALSE(part.is_contiguous());
  EXPECT_EQ(part[1].data<float>()[0], 8.0f);
  const Tensor split = tensor.slice(0, 1, 3).split_last(3, 2);
  EXPECT_EQ(split.shape(), (Shape{2, 3, 2}));
  EXPECT_EQ(split[1][2].data<float>()[1], 17.0f);
  EXPECT_EQ(split.stride(0), 6);
  EXPECT_THROW(part.reshape({8}), Error);
  EXPECT_THROW(tensor.slice(0, 3, 5), Error);
  EXPECT_THROW(tensor[4], Error);
  EXPECT_EQ(fmt::format("{} on {}", part, part.device()), "f32[4, 2] on cpu");
}

TEST(Tensor, ConvertsStridedRows) {
  std::vector<float> values = {1.5f, 2.5f, 3.5f, 4.5f};
  const Tensor column = Tensor(values.data(), DType::kF32, {2, 2}).slice(1, 1, 2);
  const Tensor converted = to_dtype(column, DType::kBF16);
  EXPECT_EQ(static_cast<float>(converted.data<BFloat16>()[1]), 4.5f);
  EXPECT_THROW(to_dtype(column, DType::kI32), Error);
}

TEST(Tensor, AllocationsAreAlignedAndEmptyOnesAllowed) {
  const Tensor tensor = Tensor::allocate({3, 5}, DType::kBF16);
  EXPECT_EQ(std::bit_cast<uintptr_t>(tensor.raw()) % 64, 0u);
  EXPECT_EQ(tensor.bytes(), 30);
  EXPECT_EQ(Tensor::allocate({0, 5}, DType::kF32).numel(), 0);
}

TEST(Tensor, IsReadAsItsOwnTypeOnly) {
  const Tensor tensor = Tensor::allocate({2, 3}, DType::kBF16);
  EXPECT_NE(tensor.data<BFloat16>(), nullptr);
  EXPECT_NE(tensor.data<uint16_t>(), nullptr) << "its bits";
  EXPECT_NE(tensor.data<std::byte>(), nullptr) << "its bytes";
  EXPECT_THROW(tensor.data<float>(), Error);
  EXPECT_THROW(tensor.data<Float16>(), Error);
  EXPECT_THROW(tensor.data<int64_t>(), Error);
}

TEST(Tensor, HasNoSizeBeyondItsRank) {
  const Tensor tensor = Tensor::allocate({2, 3}, DType::kF32);
  EXPECT_EQ(tensor.size(-2), 2);
  EXPECT_THROW(tensor.size(2), Error);
  EXPECT_THROW(tensor.size(-3), Error);
  EXPECT_THROW(tensor.stride(2), Error);
  EXPECT_THROW(Tensor().size(0), Error);
}

}  // namespace
}  // namespace flux
