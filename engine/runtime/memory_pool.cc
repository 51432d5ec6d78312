#include "runtime/memory_pool.h"

#include <algorithm>
#include <new>

#include "runtime/device_runtime.h"

namespace flux {
namespace {

/// The most bytes that a pool keeps unused.
constexpr size_t kMostUnused = size_t{64} << 20;

/// Whether a block is not so much larger than what is wanted that it would be wasted.
bool fits(size_t wanted, size_t size) { return size >= wanted && size - wanted <= wanted / 4; }

}  // namespace

MemoryPool::Block MemoryPool::find(size_t bytes) {
  const std::scoped_lock lock(mutex_);
  const auto found = std::find_if(unused_.begin(), unused_.end(),
                                  [&](const Block& block) { return fits(bytes, block.size); });
  if (found == unused_.end()) return {};
  Block block = std::move(*found);
  unused_.erase(found);
  unused_bytes_ -= block.size;
  return block;
}

MemoryPool::Block MemoryPool::make(size_t bytes) {
  Block block{runtime_->allocate(bytes), bytes};
  if (block.memory == nullptr && release()) block.memory = runtime_->allocate(bytes);
  return block;
}

bool MemoryPool::release() {
  std::deque<Block> dropped;  // outside the lock
  const std::scoped_lock lock(mutex_);
  dropped.swap(unused_);
  unused_bytes_ = 0;
  return !dropped.empty();
}

void MemoryPool::give_back(Block block) noexcept {
  std::deque<Block> dropped;  // destroyed after the lock is released
  const std::scoped_lock lock(mutex_);
  const size_t size = block.size;
  const size_t most = std::min(kMostUnused, most_in_use_);
  in_use_ -= size;
  if (size > most) return;
  try {
    unused_.push_back(std::move(block));
    unused_bytes_ += size;
    while (unused_bytes_ > most) {
      dropped.push_back(std::move(unused_.front()));
      unused_bytes_ -= dropped.back().size;
      unused_.pop_front();
    }
  } catch (const std::bad_alloc&) {  // NOLINT(bugprone-empty-catch)
    // The host has no memory for the list: a block that is not kept goes back to the device.
  }
}

std::shared_ptr<std::byte> MemoryPool::take(size_t bytes) {
  Block block = find(bytes);
  if (block.memory == nullptr) block = make(bytes);
  if (block.memory == nullptr) return nullptr;
  {
    const std::scoped_lock lock(mutex_);
    in_use_ += block.size;
    most_in_use_ = std::max(most_in_use_, in_use_);
  }
  std::byte* address = block.memory.get();
  return {address, [block = std::move(block), pool = weak_from_this()](std::byte*) mutable {
            if (const auto alive = pool.lock()) alive->give_back(std::move(block));
          }};
}

}  // namespace flux
