#include "pipeline/latents.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <sstream>

#include "golden.h"
#include "ops/registry.h"

namespace flux::testing {
namespace {

Shape parse_shape(const std::string& text) {
  std::vector<int64_t> sizes;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, 'x');) sizes.push_back(std::stoll(part));
  return Shape(sizes.data(), static_cast<int>(sizes.size()));
}

TEST(Noise, IsTorchs) {
  const auto file =
      SafetensorsFile::open(std::filesystem::path(FLUX_TEST_DATA) / "noise.safetensors");
  int cases = 0;
  for (const auto& [name, expected] : file->tensors()) {  // <dtype>/<seed>/<shape>
    std::istringstream stream(name);
    std::string dtype_name, seed, shape;
    std::getline(stream, dtype_name, '/');
    std::getline(stream, seed, '/');
    std::getline(stream, shape);
    const DType dtype = parse_compute_dtype(dtype_name);
    const Tensor found = draw_noise(std::stoull(seed), parse_shape(shape), dtype);
    const Tensor a = to_dtype(found, DType::kF32);
    const Tensor b = decode(expected, DType::kF32);
    for (int64_t i = 0; i < a.numel(); ++i) {
      // torch's vectorised logarithm and cosine are off by an ulp or two in float32.
      const float tolerance = dtype == DType::kF32 ? 2e-6f : 0.0f;
      ASSERT_NEAR(a.data<float>()[i], b.data<float>()[i], tolerance) << name << " at " << i;
    }
    ++cases;
  }
  EXPECT_GT(cases, 40);
}

TEST(Noise, KeepsTheLow32BitsOfASeed) {
  const Tensor a = draw_noise(7, {64}, DType::kF32);
  const Tensor b = draw_noise((uint64_t{1} << 40) + 7, {64}, DType::kF32);
  EXPECT_EQ(relative_error(a, b), 0);
  EXPECT_GT(relative_error(a, draw_noise(8, {64}, DType::kF32)), 0.1);
}

TEST(Latents, PackAndUnpackAreInverse) {
  Context ctx(backend_for(Device{}), 1);
  const LatentSize size{3, 4, 6};
  Tensor latents = Tensor::allocate({3, 4, 6}, DType::kF32);
  for (int64_t i = 0; i < latents.numel(); ++i) latents.data<float>()[i] = static_cast<float>(i);
  const Tensor packed = pack_latents(latents);
  ASSERT_EQ(packed.shape(), (Shape{6, 12}));
  // Token (0, 1), channel 2, row 1, column 0 of its 2 x 2 latents.
  EXPECT_EQ(packed.data<float>()[1 * 12 + 2 * 4 + 1 * 2 + 0], 2 * 24 + 1 * 6 + 2);
  VaeConfig config;
  config.scaling_factor = 0.5f;
  config.shift_factor = 0.25f;
  const Tensor unpacked = unpack_latents(ctx, packed, size, config);
  for (int64_t i = 0; i < latents.numel(); ++i) {
    EXPECT_EQ(unpacked.data<float>()[i], static_cast<float>(i) * 2 + 0.25f);
  }
}

TEST(Latents, ReducedOnesAreMeansOfWhatIsThere) {
  Context ctx(backend_for(Device{}), 1);
  const LatentSize size{2, 4, 6};
  const Tensor latents = Tensor::allocate({2, 4, 6}, DType::kF32);
  for (int64_t i = 0; i < latents.numel(); ++i) latents.data<float>()[i] = static_cast<float>(i);
  VaeConfig config;
  config.scaling_factor = 0.5f;
  config.shift_factor = 0.25f;
  const Tensor packed = pack_latents(latents);
  // As they are.
  const Tensor same = unpack_reduced(ctx, packed, size, config, 1);
  const Tensor expected = unpack_latents(ctx, packed, size, config);
  ASSERT_EQ(same.shape(), expected.shape());
  EXPECT_EQ(relative_error(same, expected), 0);
  // Rows of 4 + 2 latents, columns of 4: the edges are means of fewer.
  const Tensor reduced = unpack_reduced(ctx, packed, size, config, 4);
  ASSERT_EQ(reduced.shape(), (Shape{2, 1, 2}));
  for (int64_t channel = 0; channel < 2; ++channel) {
    const auto first = static_cast<float>(24 * channel);
    const float left = first + 9 + 1.5f;  // rows 0 to 3 of 6, columns 0 to 3
    EXPECT_EQ(reduced.data<float>()[2 * channel], left * 2 + 0.25f);
    EXPECT_EQ(reduced.data<float>()[2 * channel + 1], (left + 3) * 2 + 0.25f);
  }
  EXPECT_EQ(unpack_reduced(ctx, packed, size, config, 100).shape(), (Shape{2, 1, 1}));
  EXPECT_EQ(unpack_reduced(ctx, to_dtype(packed, DType::kBF16), size, config, 2).dtype(),
            DType::kBF16);
}

TEST(Latents, AreReducedUntilThePictureIsSmallEnough) {
  VaeConfig config;
  config.block_out_channels = {32, 32, 32, 32};
  ASSERT_EQ(config.scale_factor(), 8);
  const auto reduction = [&](int64_t height, int64_t width, int64_t pixels) {
    return reduction_to({16, height, width}, config, pixels);
  };
  EXPECT_EQ(reduction(128, 128, 256), 4);  // 1024 pixels
  EXPECT_EQ(reduction(64, 128, 256), 4);
  EXPECT_EQ(reduction(128, 64, 257), 4);
  EXPECT_EQ(reduction(128, 128, 255), 5);  // 26 latents would be 208, 32 are too many
  EXPECT_EQ(reduction(32, 32, 256), 1);
  EXPECT_EQ(reduction(2, 2, 1024), 1);  // never larger
  EXPECT_EQ(reduction(2, 128, 16), 64);
  EXPECT_EQ(reduction(2, 128, 1), 128);  // one latent is left
}

TEST(Latents, AGeneratorGoesOn) {
  // torch.manual_seed(7): randn(1), randn(2), randn(18), randn(3), each of one generator.
  NoiseGenerator generator(7);
  const float expected[] = {-0.14679509f, 0.78614128f,  0.94682163f,  -0.17643793f, 1.75017238f,
                            -0.08102158f, 1.36148512f,  -1.30321670f, 0.08747838f,  -1.38496137f,
                            0.50356388f,  -0.08352823f, -0.02347793f, -2.05646253f, -0.35672253f,
                            1.09558046f,  0.48235416f,  1.39891839f,  1.40585291f,  -1.40125084f,
                            1.29733586f,  -1.11434400f, 0.97320825f,  -1.10103619f};
  size_t at = 0;
  for (const int64_t count : {1, 2, 18, 3}) {
    const Tensor drawn = generator.draw({count}, DType::kF32);
    for (int64_t i = 0; i < count; ++i) {
      EXPECT_NEAR(drawn.data<float>()[i], expected[at], 2e-6) << at;
      ++at;
    }
  }
}

TEST(Latents, ImageIdsAreRowsAndColumns) {
  const Tensor ids = make_image_ids({16, 4, 6});
  ASSERT_EQ(ids.shape(), (Shape{6, 3}));
  EXPECT_EQ(ids.data<float>()[5 * 3 + 0], 0);
  EXPECT_EQ(ids.data<float>()[5 * 3 + 1], 1);
  EXPECT_EQ(ids.data<float>()[5 * 3 + 2], 2);
}

TEST(Pixels, AreClampedAndRoundedHalfToEven) {
  Context ctx(backend_for(Device{}), 1);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> values = {-1.0f, 1.0f, -2.0f, 7.0f, nan, 0.0f,
                               // 0.5/255, 1.5/255 and 2.5/255 of the way up
                               -1.0f + 1.0f / 255, -1.0f + 3.0f / 255, -1.0f + 5.0f / 255, 0, 0, 0};
  const ConstTensor pixels = to_pixels(ctx, Tensor(values.data(), DType::kF32, {3, 2, 2}));
  ASSERT_EQ(pixels.shape(), (Shape{2, 2, 3}));
  const auto channel = [&](int c, int i) { return pixels.data<uint8_t>()[i * 3 + c]; };
  EXPECT_EQ(channel(0, 0), 0);
  EXPECT_EQ(channel(0, 1), 255);
  EXPECT_EQ(channel(0, 2), 0);
  EXPECT_EQ(channel(0, 3), 255);
  EXPECT_EQ(channel(1, 0), 0);    // NaN
  EXPECT_EQ(channel(1, 1), 128);  // 127.5 to even
}

}  // namespace
}  // namespace flux::testing
