#include "runtime/memory_pool.h"

#include <gtest/gtest.h>

#include <cstring>

#include "runtime/fake_device.h"

namespace flux {
namespace {

constexpr size_t kMebibyte = size_t{1} << 20;

TEST(MemoryPool, GivesMemoryAgainForAboutTheSameSize) {
  const FakeDevice device;
  const auto pool = std::make_shared<MemoryPool>(device);
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

TEST(MemoryPool, KeepsNoMoreThanItMay) {
  const FakeDevice device;
  const auto pool = std::make_shared<MemoryPool>(device);
  // Written, so that nothing else can come to be at the address of a block that is kept.
  auto large = pool->take(65 * kMebibyte);
  std::memset(large.get(), 1, 65 * kMebibyte);
  large.reset();
  auto oldest = pool->take(40 * kMebibyte);
  auto newest = pool->take(30 * kMebibyte);
  const std::byte* kept = newest.get();
  oldest.reset();
  newest.reset();
  EXPECT_EQ(pool->take(30 * kMebibyte).get(), kept);
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
