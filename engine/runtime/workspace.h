#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "tensor/tensor.h"

namespace flux {

class DeviceRuntime;

/// Scratch memory for one forward: a stack of tensors. Memory is kept when scopes end, so after
/// the first passes nothing is allocated: it grows by blocks, and once nothing is in use they
/// become one that is as large as what ever was, or up to an eighth larger when that was not the
/// first peak: sums of random sizes reach new ones for a long time. Not thread-safe: one Workspace
/// for each caller.
class Workspace {
 public:
  /// In the memory of `runtime`, which must outlive it.
  explicit Workspace(const DeviceRuntime& runtime) : runtime_(&runtime) {}
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  /// An uninitialised tensor, aligned to 64 bytes, valid until the innermost Scope ends.
  /// Throws kUnavailable when there is no memory.
  Tensor allocate(const Shape& shape, DType dtype);

  /// Bytes held from the system.
  size_t reserved_bytes() const;
  /// Gives all blocks back. Throws kInternal while a Scope is open: its tensors are in them.
  void release();

  /// Everything allocated while a Scope lives is given back to the workspace when it ends.
  class Scope {
   public:
    explicit Scope(Workspace& workspace)
        : workspace_(workspace),
          block_(workspace.block_),
          used_(workspace.used_),
          in_use_(workspace.in_use_) {
      ++workspace.scopes_;
    }
    ~Scope() {
      --workspace_.scopes_;
      workspace_.block_ = block_;
      workspace_.used_ = used_;
      workspace_.in_use_ = in_use_;
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Workspace& workspace_;
    size_t block_;
    size_t used_;
    size_t in_use_;
  };

 private:
  struct Block {
    std::shared_ptr<std::byte> memory;
    size_t size;
  };
  bool add_block(size_t size);
  /// Replaces all blocks by one, which loses nothing to fragmentation.
  void make_one_block(size_t size);
  void drop_blocks();

  const DeviceRuntime* runtime_;
  std::vector<Block> blocks_;
  size_t block_ = 0;   // index of the block in use
  size_t used_ = 0;    // bytes used of it
  size_t in_use_ = 0;  // bytes of all tensors
  size_t most_ = 0;    // that ever were in use
  int scopes_ = 0;     // open
  bool is_one_block_ = false;
};

}  // namespace flux
