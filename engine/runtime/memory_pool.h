#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>

namespace flux {

class DeviceRuntime;

/// Device memory of one context's tensors, kept for the next ones of about the same size: a GPU
/// gives memory back only when all that it computes has ended, and keeps every thread waiting
/// meanwhile. What is given back may still be in use by ops that the context has begun; its next
/// ops come after them. For the same reason nobody else may write to memory taken here before
/// finish(). All that it has is no more than ever was in use at once: sizes that change do not pile
/// up. Thread-safe.
///
/// Contexts that take turns may share a pool: each has one of its own with the shared one behind
/// it, keeps there what it takes, and gives all of it to the others by release(), after finish().
/// They hold what was in use at once by all of them, not the sum of what each ever used.
class MemoryPool : public std::enable_shared_from_this<MemoryPool> {
 public:
  /// In the memory of `runtime`, which must outlive it; taken from `shared` where there is one.
  explicit MemoryPool(const DeviceRuntime& runtime, std::shared_ptr<MemoryPool> shared = nullptr)
      : runtime_(&runtime), shared_(std::move(shared)) {}
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  /// At least `bytes`, aligned to 64 bytes; null when there is no memory. It may outlive the pool.
  std::shared_ptr<std::byte> take(size_t bytes);
  /// Gives what is unused to the device, or to the shared pool. Returns whether there was anything.
  bool release();

 private:
  struct Block {
    std::shared_ptr<std::byte> memory;
    size_t size = 0;
  };
  Block find(size_t bytes);
  Block make(size_t bytes);
  std::shared_ptr<std::byte> allocate(size_t bytes) const;
  /// Takes blocks out, the longest unused first, until `most` unused bytes are left. To be called
  /// under the lock; what is returned is to be destroyed outside.
  std::deque<Block> drop_to(size_t most);
  /// Called by deleters, which must not throw.
  void give_back(Block block) noexcept;

  const DeviceRuntime* runtime_;
  std::shared_ptr<MemoryPool> shared_;
  std::mutex mutex_;
  std::deque<Block> unused_;  // longest unused first
  size_t unused_bytes_ = 0;
  size_t in_use_ = 0;  // bytes of what was taken and is not back
  size_t most_in_use_ = 0;
};

}  // namespace flux
