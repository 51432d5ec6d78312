#include "runtime/memory_pool.h"

#include <algorithm>
#include <bit>
#include <new>

#include "runtime/device_runtime.h"
#include "support/integer.h"

namespace flux {
namespace {

/// Sizes in eight steps up to the next power of two, so that blocks suit more than one tensor.
size_t size_class(size_t bytes) {
  constexpr size_t kSmall = 4096;
  return bytes <= kSmall ? bytes : round_up(bytes, std::bit_floor(bytes) / 8);
}

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

std::deque<MemoryPool::Block> MemoryPool::drop_to(size_t most) {
  std::deque<Block> dropped;
  if (shared_ != nullptr) return dropped;  // others would get it before finish()
  while (unused_bytes_ > most) {
    dropped.push_back(std::move(unused_.front()));
    unused_bytes_ -= dropped.back().size;
    unused_.pop_front();
  }
  return dropped;
}

MemoryPool::Block MemoryPool::make(size_t bytes) {
  std::deque<Block> dropped;
  {
    const std::scoped_lock lock(mutex_);
    const size_t needed = in_use_ + bytes;
    dropped = drop_to(most_in_use_ > needed ? most_in_use_ - needed : 0);
  }
  dropped.clear();
  Block block{allocate(bytes), bytes};
  // What others could get is not given away before finish(): see above.
  if (block.memory == nullptr && shared_ == nullptr && release()) block.memory = allocate(bytes);
  return block;
}

std::shared_ptr<std::byte> MemoryPool::allocate(size_t bytes) const {
  return shared_ != nullptr ? shared_->take(bytes) : runtime_->allocate(bytes);
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
  in_use_ -= size;
  try {
    // What was in use and is not any more fits in again.
    unused_.push_back(std::move(block));
    unused_bytes_ += size;
    dropped = drop_to(most_in_use_ - in_use_);
  } catch (const std::bad_alloc&) {  // NOLINT(bugprone-empty-catch)
    // The host has no memory for the list: a block that is not kept goes back to the device.
  }
}

std::shared_ptr<std::byte> MemoryPool::take(size_t bytes) {
  const size_t size = size_class(bytes);
  Block block = find(size);
  if (block.memory == nullptr) block = make(size);
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
