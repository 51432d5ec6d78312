// What is kept of adapters, and for how long.
#include "pipeline/adapter_shelf.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>

#include "golden.h"
#include "models/flux1/transformer.h"
#include "ops/registry.h"
#include "support/error.h"

namespace flux {
namespace {

namespace fs = std::filesystem;
using Rows = std::vector<std::vector<AppliedAdapter>>;

class AdapterShelfTest : public ::testing::Test {
 protected:
  std::string golden(const std::string& name) const {
    return fmt::format("{}/adapters/{}.safetensors", FLUX_TEST_DATA, name);
  }

  AdapterShelf::Target::Place place() const {
    return {model.places(), checkpoint->weights(Component::kTransformer), DType::kF32};
  }

  /// The bytes that an adapter takes of the transformer.
  int64_t size_of_adapter(const std::string& name) {
    AdapterShelf shelf;
    int64_t bytes = 0;
    AdapterShelf::Target target(shelf, AdapterModel::kTransformer,
                                {.on_bytes = [&](int64_t now) { bytes = std::max(bytes, now); }});
    bind(target, {use(shelf, name)});
    return bytes;
  }

  AdapterUse use(AdapterShelf& shelf, const std::string& name, float scale = 1.0f) {
    return {shelf.open(golden(name), checkpoint->config()), scale};
  }

  Rows bind(AdapterShelf::Target& target, const std::vector<AdapterUse>& uses) {
    return target.bind(ctx, place(), {&uses, 1});
  }

  std::shared_ptr<const Checkpoint> checkpoint = testing::open_golden("tiny-dev");
  Context ctx{backend_for(Device{}), 1};
  FluxTransformer model{Loader(ctx, checkpoint->weights(Component::kTransformer), {DType::kF32}),
                        checkpoint->config().transformer};
};

/// Counts what a target is told.
struct Counts {
  int loads = 0;
  int hits = 0;
  int64_t bytes = 0;
  int64_t most = 0;

  AdapterShelf::Target::Watch watch() {
    return {.on_load = [this] { ++loads; },
            .on_hit = [this] { ++hits; },
            .on_bytes =
                [this](int64_t now) {
                  bytes = now;
                  most = std::max(most, now);
                }};
  }
};

TEST_F(AdapterShelfTest, PacksOnceForAll) {
  AdapterShelf shelf;
  Counts counts;
  AdapterShelf::Target target(shelf, AdapterModel::kTransformer, counts.watch());
  const AdapterUse kohya = use(shelf, "kohya", 0.5f);
  EXPECT_EQ(use(shelf, "kohya").adapter, kohya.adapter);
  EXPECT_EQ(shelf.find(kohya.adapter->number), kohya.adapter);
  EXPECT_EQ(shelf.find(kohya.adapter->number + 1), nullptr);
  const Rows first = bind(target, {kohya});
  const Rows again = bind(target, {kohya, kohya});
  ASSERT_EQ(first[0].size(), 1U);
  ASSERT_EQ(again[0].size(), 2U);
  EXPECT_EQ(first[0][0].scale, 0.5f);
  EXPECT_EQ(first[0][0].weights, again[0][1].weights);
  EXPECT_EQ(counts.loads, 1);
  EXPECT_EQ(counts.hits, 2);
  EXPECT_EQ(counts.bytes, first[0][0].weights->bytes());
}

TEST_F(AdapterShelfTest, LeavesOutWhatChangesNothingOfTheModel) {
  AdapterShelf shelf;
  Counts counts;
  AdapterShelf::Target t5(shelf, AdapterModel::kT5, counts.watch());
  EXPECT_TRUE(bind(t5, {use(shelf, "kohya")})[0].empty());
  EXPECT_EQ(counts.loads + counts.hits, 0);
}

TEST_F(AdapterShelfTest, TheLongestUnusedLeaves) {
  const int64_t xlabs = size_of_adapter("xlabs");
  const int64_t bias = size_of_adapter("peft_bias");
  ASSERT_LE(size_of_adapter("onetrainer"), bias);
  AdapterShelf shelf(xlabs + bias);
  Counts counts;
  AdapterShelf::Target target(shelf, AdapterModel::kTransformer, counts.watch());
  for (const char* name : {"xlabs", "peft_bias", "xlabs"}) bind(target, {use(shelf, name)});
  EXPECT_EQ(counts.bytes, xlabs + bias);
  bind(target, {use(shelf, "onetrainer")});  // in place of peft_bias
  EXPECT_EQ(counts.loads, 3);
  bind(target, {use(shelf, "xlabs")});
  EXPECT_EQ(counts.loads, 3);
  bind(target, {use(shelf, "peft_bias")});
  EXPECT_EQ(counts.loads, 4);
  EXPECT_LE(counts.most, xlabs + bias);
}

TEST_F(AdapterShelfTest, WhatIsComputedWithStays) {
  const int64_t xlabs = size_of_adapter("xlabs");
  const int64_t bias = size_of_adapter("peft_bias");
  AdapterShelf shelf(std::max(xlabs, bias));
  Counts counts;
  AdapterShelf::Target target(shelf, AdapterModel::kTransformer, counts.watch());
  AdapterShelf::Target other(shelf, AdapterModel::kTransformer);
  std::optional<Rows> computing = bind(target, {use(shelf, "xlabs")});
  EXPECT_EQ(shelf.drop_unused(), 0);
  std::atomic<bool> has_room = false;
  std::thread waiting([&] {
    Context own(backend_for(Device{}), 1);
    const std::vector<AdapterUse> uses = {use(shelf, "peft_bias")};
    other.bind(own, place(), {&uses, 1});
    has_room = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_FALSE(has_room);
  EXPECT_EQ(counts.bytes, xlabs);
  computing.reset();
  waiting.join();
  EXPECT_TRUE(has_room);
  EXPECT_EQ(counts.bytes, 0);
  EXPECT_EQ(shelf.drop_unused(), bias);
}

TEST_F(AdapterShelfTest, WhoWaitsForRoomCanBeStopped) {
  AdapterShelf shelf(size_of_adapter("xlabs"));
  AdapterShelf::Target target(shelf, AdapterModel::kTransformer);
  const Rows computing = bind(target, {use(shelf, "xlabs")});
  AdapterShelf::Target other(shelf, AdapterModel::kTransformer);
  ctx.set_cancel_check([] { return true; });
  try {
    bind(other, {use(shelf, "peft_bias")});
    FAIL() << "there is no room";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCancelled);
  }
  ctx.set_cancel_check(nullptr);
  EXPECT_EQ(bind(target, {use(shelf, "xlabs")})[0][0].weights, computing[0][0].weights);
}

TEST_F(AdapterShelfTest, RefusesAStepThatTakesMoreThanAll) {
  const int64_t xlabs = size_of_adapter("xlabs");
  const int64_t bias = size_of_adapter("peft_bias");
  AdapterShelf shelf(xlabs + bias - 1);
  Counts counts;
  AdapterShelf::Target target(shelf, AdapterModel::kTransformer, counts.watch());
  const auto refusal = [&](const std::vector<AdapterUse>& uses) {
    try {
      bind(target, uses);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_NE(refusal({use(shelf, "xlabs"), use(shelf, "peft_bias")})
                .find("with the others of the step, and at most"),
            std::string::npos);
  EXPECT_EQ(refusal({use(shelf, "xlabs"), use(shelf, "xlabs")}), "accepted");
  EXPECT_EQ(refusal({use(shelf, "peft_bias")}), "accepted");
  AdapterShelf tiny(16);
  AdapterShelf::Target poor(tiny, AdapterModel::kTransformer);
  const std::vector<AdapterUse> uses = {use(tiny, "xlabs")};
  EXPECT_THROW(poor.bind(ctx, place(), {&uses, 1}), Error);
  EXPECT_EQ(tiny.drop_unused(), 0);
}

TEST_F(AdapterShelfTest, AReplacedFileIsAnotherAdapter) {
  const fs::path file = fs::path(::testing::TempDir()) / "shelf.safetensors";
  const auto put = [&](const std::string& name) {
    fs::copy_file(golden(name), file.string() + ".new", fs::copy_options::overwrite_existing);
    fs::rename(file.string() + ".new", file);
  };
  AdapterShelf shelf;
  Counts counts;
  AdapterShelf::Target target(shelf, AdapterModel::kTransformer, counts.watch());
  put("kohya");
  AdapterUse old{shelf.open(file.string(), checkpoint->config()), 1.0f};
  bind(target, {old});
  const int64_t kohya = counts.bytes;
  put("xlabs");
  AdapterUse now{shelf.open(file.string(), checkpoint->config()), 1.0f};
  EXPECT_NE(now.adapter->number, old.adapter->number);
  EXPECT_EQ(bind(target, {old})[0][0].weights->bytes(), kohya) << "who has begun has the old one";
  EXPECT_EQ(counts.loads, 1);
  const uint64_t number = old.adapter->number;
  old = {};
  bind(target, {now});
  EXPECT_EQ(shelf.find(number), nullptr) << "nobody has it";
  EXPECT_EQ(counts.bytes, size_of_adapter("xlabs"));
  fs::remove(file);
}

TEST_F(AdapterShelfTest, AModelThatEndsTakesItsWeightsAlong) {
  AdapterShelf shelf;
  Counts counts;
  const AdapterUse kohya = use(shelf, "kohya");
  {
    AdapterShelf::Target target(shelf, AdapterModel::kTransformer, counts.watch());
    bind(target, {kohya});
    EXPECT_GT(counts.bytes, 0);
  }
  EXPECT_EQ(counts.bytes, 0);
  EXPECT_EQ(shelf.drop_unused(), 0);
}

TEST_F(AdapterShelfTest, AFailureTakesNoRoom) {
  const fs::path file = fs::path(::testing::TempDir()) / "nan.safetensors";
  fs::copy_file(golden("xlabs"), file, fs::copy_options::overwrite_existing);
  {
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(-4, std::ios::end);
    stream.write("\xff\xff\xff\xff", 4);
  }
  AdapterShelf shelf(size_of_adapter("xlabs"));
  AdapterShelf::Target target(shelf, AdapterModel::kTransformer);
  const AdapterUse bad{shelf.open(file.string(), checkpoint->config()), 1.0f};
  for (int i = 0; i < 3; ++i) EXPECT_THROW(bind(target, {bad}), Error);
  EXPECT_EQ(bind(target, {use(shelf, "xlabs")})[0].size(), 1U);
  fs::remove(file);
}

TEST_F(AdapterShelfTest, ModelsThatBindAtOnceEachGetTheirOwn) {
  const int64_t room = std::max(size_of_adapter("xlabs"), size_of_adapter("peft_bias"));
  AdapterShelf shelf(room);
  std::vector<std::thread> threads;
  std::atomic<int> done = 0;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&, i] {
      Context own(backend_for(Device{}), 1);
      AdapterShelf::Target target(shelf, AdapterModel::kTransformer);
      for (int step = 0; step < 20; ++step) {
        const std::vector<AdapterUse> uses = {use(shelf, (i + step) % 2 ? "xlabs" : "peft_bias")};
        if (target.bind(own, place(), {&uses, 1})[0].size() == 1) ++done;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(done, 60);
  EXPECT_LE(shelf.drop_unused(), room);
}

}  // namespace
}  // namespace flux
