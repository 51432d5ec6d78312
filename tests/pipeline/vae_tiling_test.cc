// Encoding and decoding in tiles, against diffusers' after enable_tiling(), and when they come
// into play.
#include "models/vae/vae_tiling.h"

#include <gtest/gtest.h>

#include "golden.h"
#include "ops/cpu/cpu_backend.h"
#include "ops/registry.h"
#include "pipeline/stage_runs.h"
#include "support/error.h"
#include "support/log.h"

namespace flux::testing {
namespace {

class VaeTiling : public GoldenTest {
 protected:
  template <typename Model>
  Model load(Context& ctx, DType dtype = DType::kF32) const {
    const auto opened = open_golden(checkpoint());
    return Model(Loader(ctx, opened->weights(Component::kVae), {dtype}), opened->config().vae);
  }
  GoldenCase golden(const char* stage) const { return golden_cases(checkpoint(), stage).at(0); }
};

class VaeDecoderTiling : public VaeTiling {
 protected:
  ConstTensor latents() const { return golden("vae_decoder_tiled").tensor("latents")[0]; }
  ConstTensor expected() const { return golden("vae_decoder_tiled").tensor("image")[0]; }
};

class VaeEncoderTiling : public VaeTiling {
 protected:
  ConstTensor image() const {
    return to_dtype(golden("vae_encoder_tiled").tensor("image")[0], DType::kF32);
  }
  ConstTensor expected() const { return golden("vae_encoder_tiled").tensor("moments")[0]; }
};

TEST_P(VaeDecoderTiling, EqualsDiffusers) {
  Context ctx(backend_for(device()), 2);
  const VaeDecoder vae = load<VaeDecoder>(ctx);
  const Tensor image = Tensor::allocate(expected().shape(), DType::kF32);
  decode_in_tiles(ctx, vae, latents(), image);
  EXPECT_LT(relative_error(image, expected()), 2e-4);
  // Whole and in tiles are not the same: the test would notice if there were no tiles.
  vae.forward(ctx, latents(), image);
  EXPECT_GT(relative_error(image, expected()), 2e-4);
}

/// The CPU, out of memory the first times that it is asked for some.
class ScarceBackend final : public cpu::CpuBackend {
 public:
  explicit ScarceBackend(int refusals) : refusals_(refusals) {}
  std::shared_ptr<std::byte> allocate(size_t bytes) const override {
    return refusals_-- > 0 ? nullptr : CpuBackend::allocate(bytes);
  }

 private:
  mutable int refusals_;
};

/// Collects warnings while it lives.
class Warnings {
 public:
  Warnings() {
    set_log_sink([this](LogLevel, std::string_view message) { lines.emplace_back(message); });
  }
  ~Warnings() { set_log_sink({}); }
  std::vector<std::string> lines;
};

TEST_P(VaeDecoderTiling, ComesWhereMemoryRunsOut) {
  if (!device().is_cpu()) GTEST_SKIP() << "memory runs out on the CPU here";
  Context plenty(backend_for(device()), 2);
  const VaeDecoder vae = load<VaeDecoder>(plenty);
  const Tensor in_tiles = Tensor::allocate(expected().shape(), DType::kF32);
  decode_in_tiles(plenty, vae, latents(), in_tiles);

  ScarceBackend scarce(1);
  Context ctx(scarce, 2);
  const Tensor image = Tensor::allocate(expected().shape(), DType::kF32);
  const Warnings warnings;
  run_decoder(ctx, vae, latents(), image, {}, {});
  EXPECT_EQ(relative_error(image, in_tiles), 0.0);
  ASSERT_EQ(warnings.lines.size(), 1u);
  EXPECT_NE(warnings.lines[0].find("are decoded in tiles of"), std::string::npos);
  EXPECT_NE(warnings.lines[0].find("out of memory on cpu"), std::string::npos);
}

TEST_P(VaeDecoderTiling, IsNoHelpWhereATileDoesNotFitOrIsAll) {
  if (!device().is_cpu()) GTEST_SKIP() << "memory runs out on the CPU here";
  Context plenty(backend_for(device()), 1);
  const VaeDecoder vae = load<VaeDecoder>(plenty);
  const auto expect_unavailable = [&](const ConstTensor& input, int refusals) {
    ScarceBackend scarce(refusals);
    Context ctx(scarce, 1);
    const int64_t factor = vae.config().scale_factor();
    const Tensor image =
        Tensor::allocate({3, input.size(1) * factor, input.size(2) * factor}, DType::kF32);
    try {
      run_decoder(ctx, vae, input, image, {}, {});
      FAIL() << "nothing thrown";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
    }
  };
  const Warnings warnings;
  expect_unavailable(latents(), 2);
  EXPECT_EQ(warnings.lines.size(), 1u);
  const Tensor small = Tensor::allocate({latents().size(0), 4, 4}, DType::kF32);
  expect_unavailable(small, 1);
  EXPECT_EQ(warnings.lines.size(), 1u);
}

TEST_P(VaeEncoderTiling, EqualsDiffusers) {
  Context ctx(backend_for(device()), 2);
  const auto vae = load<VaeEncoder>(ctx);
  const Tensor moments = Tensor::allocate(expected().shape(), DType::kF32);
  encode_in_tiles(ctx, vae, image(), moments);
  EXPECT_LT(relative_error(moments, expected()), 2e-4);
  // Whole and in tiles are not the same: the test would notice if there were no tiles.
  vae.forward(ctx, image(), moments);
  EXPECT_GT(relative_error(moments, expected()), 2e-4);
}

TEST_P(VaeEncoderTiling, BFloat16IsNear) {
  Context ctx(backend_for(device()), 2);
  const auto vae = load<VaeEncoder>(ctx, DType::kBF16);
  const Tensor moments = Tensor::allocate(expected().shape(), DType::kBF16);
  encode_in_tiles(ctx, vae, image(), moments);
  EXPECT_LT(relative_error(moments, expected()), 6e-2);
}

TEST_P(VaeEncoderTiling, ComesWhereMemoryRunsOut) {
  if (!device().is_cpu()) GTEST_SKIP() << "memory runs out on the CPU here";
  Context plenty(backend_for(device()), 2);
  const auto vae = load<VaeEncoder>(plenty);
  const Tensor in_tiles = Tensor::allocate(expected().shape(), DType::kF32);
  encode_in_tiles(plenty, vae, image(), in_tiles);

  ScarceBackend scarce(1);
  Context ctx(scarce, 2);
  const Warnings warnings;
  EXPECT_TRUE(same_bytes(run_encoder(ctx, vae, image(), {}), in_tiles));
  ASSERT_EQ(warnings.lines.size(), 1u);
  EXPECT_NE(warnings.lines[0].find("are encoded in tiles of"), std::string::npos);
  EXPECT_NE(warnings.lines[0].find("out of memory on cpu"), std::string::npos);
}

TEST_P(VaeEncoderTiling, IsNoHelpWhereATileDoesNotFitOrIsAll) {
  if (!device().is_cpu()) GTEST_SKIP() << "memory runs out on the CPU here";
  Context plenty(backend_for(device()), 1);
  const auto vae = load<VaeEncoder>(plenty);
  const auto expect_unavailable = [&](const ConstTensor& input, int refusals) {
    ScarceBackend scarce(refusals);
    Context ctx(scarce, 1);
    try {
      run_encoder(ctx, vae, input, {});
      FAIL() << "nothing thrown";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
    }
  };
  const Warnings warnings;
  expect_unavailable(image(), 2);
  EXPECT_EQ(warnings.lines.size(), 1u);
  const int64_t side = tile_side(vae.config());
  expect_unavailable(image().slice(1, 0, side).slice(2, 0, side), 1);
  EXPECT_EQ(warnings.lines.size(), 1u);
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, VaeDecoderTiling, ::testing::ValuesIn(golden_settings()),
                         [](const auto& test) { return name_of(test.param); });
INSTANTIATE_TEST_SUITE_P(Checkpoints, VaeEncoderTiling, ::testing::ValuesIn(golden_settings()),
                         [](const auto& test) { return name_of(test.param); });

}  // namespace
}  // namespace flux::testing
