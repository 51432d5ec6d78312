#include <gtest/gtest.h>

#include "ops/product_reference.h"
#include "ops/registry.h"
#include "support/error.h"

namespace flux {
namespace {

namespace ref = product_reference;

class ScaleNoise : public testing::TestWithParam<DType> {
 protected:
  Tensor random(uint32_t seed) const { return ref::random_tensor({6, 24}, GetParam(), seed); }

  Context ctx{backend_for(Device{}), 1};
  Tensor latents = random(1);
  Tensor image = random(2);
  Tensor noise = random(3);
};

/// sigma x noise + (1 - sigma) x image of one element, rounded to `dtype` after each operation.
float expected(DType dtype, float sigma, double noise, double image) {
  const float part = round_to(dtype, sigma);
  const float rest = round_to(dtype, 1.0f - part);
  return round_to(dtype, round_to(dtype, part * static_cast<float>(noise)) +
                             round_to(dtype, rest * static_cast<float>(image)));
}

TEST_P(ScaleNoise, MixesImageAndNoise) {
  for (const float sigma : {0.0f, 0.3337f, 1.0f}) {
    scale_noise(ctx, latents, {image, noise, sigma});
    for (int64_t i = 0; i < latents.numel(); ++i) {
      EXPECT_EQ(ref::get(latents, i),
                expected(GetParam(), sigma, ref::get(noise, i), ref::get(image, i)))
          << sigma << " at " << i;
    }
  }
}

TEST_P(ScaleNoise, KeepsWhatTheMaskLeavesOut) {
  const Tensor before = to_dtype(latents, GetParam());
  const Tensor ones = Tensor::allocate(latents.shape(), DType::kF32);
  for (int64_t i = 0; i < ones.numel(); ++i) ones.data<float>()[i] = i % 3 == 0 ? 1.0f : 0.0f;
  const Tensor mask = to_dtype(ones, GetParam());
  scale_noise(ctx, latents, {image, noise, 0.25f, mask});
  for (int64_t i = 0; i < latents.numel(); ++i) {
    const double mixed = expected(GetParam(), 0.25f, ref::get(noise, i), ref::get(image, i));
    EXPECT_EQ(ref::get(latents, i), i % 3 == 0 ? ref::get(before, i) : mixed) << i;
  }
}

TEST_P(ScaleNoise, NamesWhatDoesNotFit) {
  const Tensor other = ref::random_tensor({6, 20}, GetParam(), 4);
  try {
    scale_noise(ctx, latents, {other, noise, 0.5f});
    FAIL() << "nothing thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInternal);
    EXPECT_NE(std::string(error.what()).find("scale_noise: image is"), std::string::npos);
  }
  EXPECT_THROW(scale_noise(ctx, latents, {image, other, 0.5f}), Error);
  EXPECT_THROW(scale_noise(ctx, latents, {image, noise, 0.5f, other}), Error);
}

INSTANTIATE_TEST_SUITE_P(Types, ScaleNoise, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& test) { return std::string(name_of(test.param)); });

}  // namespace
}  // namespace flux
