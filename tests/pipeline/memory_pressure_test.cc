// The order of reliefs where memory is short, and that images stay the same.
#include "pipeline/memory_pressure.h"

#include <gtest/gtest.h>

#include "golden.h"
#include "ops/cpu/cpu_backend.h"
#include "pipeline/latents.h"
#include "pipeline/local_stages.h"

namespace flux::testing {
namespace {

/// Collects log lines while it lives.
class Log {
 public:
  Log() {
    set_log_sink([this](LogLevel level, std::string_view message) {
      lines.emplace_back(message.substr(0, message.find(':')));
      warnings += level == LogLevel::kWarning ? 1 : 0;
    });
  }
  ~Log() { set_log_sink({}); }
  std::vector<std::string> lines;  // without the cause
  int warnings = 0;
};

void run_out_of_memory() { fail(ErrorCode::kUnavailable, "out of memory"); }

TEST(WithRelief, AppliesEachReliefUntilItHasNothingToDo) {
  int left = 2;
  std::vector<std::string> tried;
  const auto named = [&](std::string name, bool changes) {
    return Relief{[&tried, name, changes] {
      tried.push_back(name);
      return changes ? name : std::string();
    }};
  };
  const Relief reliefs[] = {
      named("nothing", false),
      {[&] { return left-- > 0 ? std::string("halved") : std::string(); }, LogLevel::kWarning},
      named("dropped", false),
  };
  const Log log;
  int runs = 0;
  EXPECT_THROW(with_relief(reliefs,
                           [&] {
                             ++runs;
                             run_out_of_memory();
                           }),
               Error);
  EXPECT_EQ(runs, 3);
  EXPECT_EQ(log.lines, (std::vector<std::string>{"halved", "halved"}));
  EXPECT_EQ(log.warnings, 2);
  EXPECT_EQ(tried, (std::vector<std::string>{"nothing", "dropped"}));
}

TEST(WithRelief, ReturnsTheResultOfTheRunThatFits) {
  bool freed = false;
  const Relief relief{[&] { return std::exchange(freed, true) ? std::string() : "freed"; }};
  EXPECT_EQ(with_relief({&relief, 1},
                        [&] {
                          if (!freed) run_out_of_memory();
                          return 7;
                        }),
            7);
}

TEST(WithRelief, LeavesOtherErrorsAlone) {
  const Relief relief{[]() -> std::string { throw std::logic_error("not asked for"); }};
  EXPECT_THROW(with_relief({&relief, 1}, [] { fail(ErrorCode::kCancelled, "cancelled"); }), Error);
}

/// The CPU with a bounded memory, which a test makes smaller and larger.
class BoundedCpu final : public cpu::CpuBackend {
 public:
  std::shared_ptr<std::byte> allocate(size_t bytes) const override {
    if (*held_ + bytes > limit) return nullptr;
    auto memory = CpuBackend::allocate(bytes);
    if (memory == nullptr) return nullptr;
    *held_ += bytes;
    most = std::max(most, *held_);
    return {memory.get(), [memory, bytes, held = held_](std::byte*) mutable {
              memory.reset();
              *held -= bytes;
            }};
  }
  int64_t available_bytes() const override {
    return static_cast<int64_t>(limit - std::min(limit, *held_));
  }
  int64_t useful_tokens() const override { return 1 << 20; }

  size_t limit = size_t{1} << 40;
  mutable size_t most = 0;

 private:
  std::shared_ptr<size_t> held_ = std::make_shared<size_t>(0);
};

class MemoryPressure : public GoldenTest {
 protected:
  void SetUp() override {
    GoldenTest::SetUp();
    if (!device().is_cpu()) GTEST_SKIP() << "memory runs out on the CPU here";
  }
  LocalStages stages(BoundedCpu& backend) const {
    return LocalStages(open_golden(checkpoint()), backend,
                       {.dtype = DType::kF32, .device = {}, .threads = 2});
  }
  /// `count` rows of one step of an image of `side` x `side` tokens, the noise of seed `row` each.
  std::vector<TransformerInput> rows(size_t count, int64_t side) const {
    const FluxConfig& config = open_golden(checkpoint())->config();
    std::vector<TransformerInput> rows(count);
    uint64_t seed = 0;
    for (TransformerInput& row : rows) {
      const LatentSize size{config.vae.latent_channels, 2 * side, 2 * side};
      const auto noise = [&](const Shape& shape) { return draw_noise(seed++, shape, DType::kF32); };
      const Tensor packed = pack_latents(noise({size.channels, size.height, size.width}));
      row.images = {{packed, make_image_ids(size), Tensor::allocate(packed.shape(), DType::kF32)}};
      row.encoder_hidden_states = noise({8, config.transformer.joint_attention_dim});
      row.txt_ids = make_text_ids(8);
      row.pooled_projections = noise({config.transformer.pooled_projection_dim});
      if (config.transformer.guidance_embeds) row.guidance = 3.5f;
      row.clock = {std::make_shared<const std::vector<float>>(std::vector<float>{1, 0.5f}), 1};
    }
    return rows;
  }
};

TEST_P(MemoryPressure, HalvesTheBatchThenDropsStates) {
  BoundedCpu plenty;
  LocalStages unbounded = stages(plenty);
  const std::vector<TransformerInput> expected = rows(4, 48);
  unbounded.transformer(expected);

  BoundedCpu backend;
  LocalStages bounded = stages(backend);
  bounded.load(StageKind::kDitTransformer);
  const std::vector<TransformerInput> found = rows(4, 48);
  // Weights on the CPU are not the backend's: its memory is what a step needs.
  backend.limit = plenty.most * 3 / 4;
  const Log log;
  bounded.transformer(found);
  ASSERT_FALSE(log.lines.empty());
  EXPECT_EQ(log.lines[0], "4 rows of a step are computed 2 at a time");
  EXPECT_EQ(log.warnings, static_cast<int>(std::count_if(log.lines.begin(), log.lines.end(),
                                                         [](const std::string& line) {
                                                           return line.ends_with("at a time");
                                                         })));
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(relative_error(found[i].images[0].noise_pred, expected[i].images[0].noise_pred), 0.0);
  }
}

TEST_P(MemoryPressure, EndsWithTheErrorWhereNothingHelps) {
  BoundedCpu backend;
  LocalStages bounded = stages(backend);
  bounded.load(StageKind::kClipEncoder);
  bounded.load(StageKind::kDitTransformer);
  backend.limit = 1000;
  const Log log;
  try {
    bounded.transformer(rows(1, 12));
    FAIL() << "nothing thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
  }
  EXPECT_EQ(log.lines.back(), "the weights of other stages are dropped");
  EXPECT_EQ(bounded.weight_bytes(StageKind::kClipEncoder), 0);
  backend.limit = size_t{1} << 40;
  bounded.transformer(rows(1, 12));  // and it goes on once there is room
}

TEST_P(MemoryPressure, DropsScratchMemoryOnceForEachFailure) {
  BoundedCpu plenty;
  stages(plenty).transformer(rows(1, 48));
  BoundedCpu backend;
  LocalStages bounded = stages(backend);
  bounded.load(StageKind::kDitTransformer);
  backend.limit = plenty.most / 2;  // the step fails half-way, each time with some scratch memory
  const Log log;
  EXPECT_THROW(bounded.transformer(rows(1, 48)), Error);
  EXPECT_LE(std::count(log.lines.begin(), log.lines.end(),
                       "the states of images and scratch memory are dropped"),
            1);
  backend.limit = size_t{1} << 40;
  bounded.transformer(rows(1, 48));
}

TEST_P(MemoryPressure, DropsTextEncodersBeforeItDecodesInTiles) {
  const FluxConfig& config = open_golden(checkpoint())->config();
  const Tensor latents = draw_noise(1, {config.vae.latent_channels, 96, 96}, DType::kF32);
  BoundedCpu backend;
  LocalStages bounded = stages(backend);
  const Tensor whole = bounded.decode(latents);
  bounded.load(StageKind::kT5Encoder);
  bounded.load(StageKind::kDitTransformer);
  bounded.context().workspace().release();
  backend.limit = backend.most / 2;
  const Log log;
  const Tensor tiled = bounded.decode(latents);
  EXPECT_EQ(log.lines[0], "the weights of the text encoders are dropped");
  EXPECT_NE(log.lines[1].find(" pixels are decoded in tiles of "), std::string::npos);
  EXPECT_EQ(log.warnings, 1);
  EXPECT_GT(bounded.weight_bytes(StageKind::kDitTransformer), 0);
  EXPECT_GT(relative_error(tiled, whole), 0.0);
}

TEST_P(MemoryPressure, DropsTextEncodersBeforeItEncodesInTiles) {
  const Tensor image = draw_noise(1, {3, 384, 384}, DType::kF32);
  BoundedCpu backend;
  LocalStages bounded = stages(backend);
  const Tensor whole = bounded.encode_image(image, {})[0];
  bounded.load(StageKind::kT5Encoder);
  bounded.load(StageKind::kDitTransformer);
  bounded.context().workspace().release();
  backend.limit = backend.most / 2;
  const Log log;
  const Tensor tiled = bounded.encode_image(image, {})[0];
  EXPECT_EQ(log.lines[0], "the weights of the text encoders are dropped");
  EXPECT_NE(log.lines[1].find(" pixels are encoded in tiles of "), std::string::npos);
  EXPECT_EQ(log.warnings, 1);
  EXPECT_GT(bounded.weight_bytes(StageKind::kDitTransformer), 0);
  EXPECT_GT(relative_error(tiled, whole), 0.0);
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, MemoryPressure,
                         ::testing::Values(GoldenSetting{"tiny-dev", {}}),
                         [](const auto& test) { return name_of(test.param); });

}  // namespace
}  // namespace flux::testing
