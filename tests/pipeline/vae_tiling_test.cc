// Decoding in tiles, against diffusers' tiled_decode, and when it comes into play.
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
  VaeDecoder load(Context& ctx) const {
    const auto opened = open_golden(checkpoint());
    return VaeDecoder(Loader(ctx, opened->weights(Component::kVae), {DType::kF32}),
                      opened->config().vae);
  }
  ConstTensor latents() const { return golden().tensor("latents")[0]; }
  ConstTensor expected() const { return golden().tensor("image")[0]; }

 private:
  GoldenCase golden() const { return golden_cases(checkpoint(), "vae_decoder_tiled").at(0); }
};

TEST_P(VaeTiling, EqualsDiffusers) {
  Context ctx(backend_for(device()), 2);
  const VaeDecoder vae = load(ctx);
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

TEST_P(VaeTiling, ComesWhereMemoryRunsOut) {
  if (!device().is_cpu()) GTEST_SKIP() << "memory runs out on the CPU here";
  Context plenty(backend_for(device()), 2);
  const VaeDecoder vae = load(plenty);
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

TEST_P(VaeTiling, IsNoHelpWhereATileDoesNotFitOrIsAll) {
  if (!device().is_cpu()) GTEST_SKIP() << "memory runs out on the CPU here";
  Context plenty(backend_for(device()), 1);
  const VaeDecoder vae = load(plenty);
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

INSTANTIATE_TEST_SUITE_P(Checkpoints, VaeTiling, ::testing::ValuesIn(golden_settings()),
                         [](const auto& test) { return name_of(test.param); });

}  // namespace
}  // namespace flux::testing
