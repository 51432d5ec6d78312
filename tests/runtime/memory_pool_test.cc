#include "runtime/memory_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/fake_device.h"

namespace flux {
namespace {

constexpr size_t kMebibyte = size_t{1} << 20;

TEST(MemoryPool, GivesMemoryAgainForAboutTheSameSize) {
  const FakeDevice device;
  const auto pool = std::make_shared<MemoryPool>(device);
  pool->take(10000).reset();  // so much it may keep
  auto first = pool->take(1000);
  const std::byte* address = first.get();
  const auto second = pool->take(1000);
  EXPECT_NE(second.get(), address);
  first.reset();
  auto smaller = pool->take(900);
  EXPECT_EQ(smaller.get(), address);
  smaller.reset();
  EXPECT_NE(pool->take(500).get(), address) << "half of it would be wasted";
  EXPECT_NE(pool->take(1100).get(), address);
  EXPECT_EQ(pool->take(1000).get(), address);
}

TEST(MemoryPool, HoldsWhatWasInUseAtOnce) {
  const FakeDevice device;
  const auto pool = std::make_shared<MemoryPool>(device);
  std::vector<std::shared_ptr<std::byte>> peak;
  for (int i = 0; i < 4; ++i) peak.push_back(pool->take(8 * kMebibyte));
  EXPECT_EQ(device.held(), 32 * kMebibyte);
  peak.clear();
  // Any load below the peak changes nothing where the sizes are the same.
  for (int i = 0; i < 10; ++i) {
    const auto one = pool->take(8 * kMebibyte);
    const auto other = pool->take(7 * kMebibyte);
    EXPECT_EQ(device.held(), 32 * kMebibyte);
  }
  // Another size takes the place of what is unused.
  const auto large = pool->take(28 * kMebibyte);
  EXPECT_EQ(device.held(), 28 * kMebibyte);
  const auto more = pool->take(8 * kMebibyte);
  EXPECT_EQ(device.held(), 36 * kMebibyte) << "a new peak";
}

TEST(MemoryPool, DoesNotPileUpSizes) {
  const FakeDevice device;
  const auto pool = std::make_shared<MemoryPool>(device);
  size_t largest = 0;
  for (size_t i = 1; i <= 40; ++i) {
    const size_t size = i * 7 % 41 * kMebibyte / 4;
    largest = std::max(largest, size + size / 8);  // sizes are rounded up
    pool->take(size).reset();
    EXPECT_LE(device.held(), largest) << size;
  }
}

TEST(MemoryPool, ThoseThatShareHoldWhatAllUsedAtOnce) {
  const FakeDevice device;
  const auto shared = std::make_shared<MemoryPool>(device);
  std::vector<std::shared_ptr<MemoryPool>> pools;
  for (int i = 0; i < 10; ++i) pools.push_back(std::make_shared<MemoryPool>(device, shared));
  for (const auto& pool : pools) {
    pool->take(8 * kMebibyte).reset();
    pool->take(8 * kMebibyte).reset();
    EXPECT_TRUE(pool->release());
    EXPECT_FALSE(pool->release());
  }
  EXPECT_EQ(device.held(), 8 * kMebibyte);
  auto kept = pools[0]->take(8 * kMebibyte);
  const std::byte* address = kept.get();
  kept.reset();
  EXPECT_NE(pools[1]->take(8 * kMebibyte).get(), address) << "before it was released";
  pools[0]->take(100 * kMebibyte).reset();
  EXPECT_EQ(pools[0]->take(8 * kMebibyte).get(), address) << "nothing is dropped before release()";
}

TEST(MemoryPool, ServesSeveralThreads) {
  constexpr size_t kThreads = 4;
  const FakeDevice device;
  const auto pool = std::make_shared<MemoryPool>(device);
  // A thread writes to memory of its own and hands it to the next one, which gives it back.
  std::mutex mutex;
  std::vector<std::shared_ptr<std::byte>> handed(kThreads);
  std::atomic<int> mixed_up = 0;
  const auto use = [&](size_t thread) {
    const auto mark = static_cast<int>(thread) + 1;
    for (size_t round = 0; round < 300; ++round) {
      const size_t bytes = 1000 + round % 3 * 1000;
      std::shared_ptr<std::byte> memory = pool->take(bytes);
      std::memset(memory.get(), mark, bytes);
      if (round % 50 == 0) pool->release();
      if (std::any_of(memory.get(), memory.get() + bytes,
                      [&](std::byte found) { return found != std::byte(mark); })) {
        ++mixed_up;
      }
      const std::scoped_lock lock(mutex);
      handed[(thread + round) % kThreads].swap(memory);
    }
  };
  std::vector<std::thread> threads;
  for (size_t thread = 0; thread < kThreads; ++thread) threads.emplace_back(use, thread);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(mixed_up, 0);
  handed.clear();
  pool->release();
  EXPECT_EQ(device.held(), 0U);
}

TEST(MemoryPool, IsOutlivedByItsMemory) {
  const FakeDevice device;
  auto pool = std::make_shared<MemoryPool>(device);
  const auto memory = pool->take(64);
  pool.reset();
  std::memset(memory.get(), 1, 64);
  EXPECT_EQ(memory.get()[63], std::byte{1});
}

}  // namespace
}  // namespace flux
