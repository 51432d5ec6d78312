#include "runtime/workspace.h"

#include <algorithm>
#include <bit>

#include "runtime/device_runtime.h"
#include "support/error.h"
#include "support/integer.h"

namespace flux {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kMinimumBlock = size_t{8} << 20;

}  // namespace

Tensor Workspace::allocate(const Shape& shape, DType dtype) {
  const size_t bytes = round_up(static_cast<size_t>(shape.numel()) * size_of(dtype), kAlignment);
  if (in_use_ == 0 && (blocks_.size() > 1 || (blocks_.size() == 1 && bytes > blocks_[0].size))) {
    make_one_block(std::max(most_, bytes));
  }
  while (block_ < blocks_.size() && used_ + bytes > blocks_[block_].size) {
    ++block_;
    used_ = 0;
  }
  if (block_ == blocks_.size() && !add_block(std::max(bytes, kMinimumBlock))) {
    fail_out_of_memory(*runtime_, bytes,
                       fmt::format("workspace beside the {} held", reserved_bytes()));
  }
  void* data = blocks_[block_].memory.get() + used_;
  used_ += bytes;
  in_use_ += bytes;
  most_ = std::max(most_, in_use_);
  return Tensor(data, dtype, shape, runtime_->device());
}

bool Workspace::add_block(size_t size) {
  auto memory = runtime_->allocate(size);
  if (memory == nullptr) return false;
  blocks_.push_back(Block{std::move(memory), size});
  return true;
}

void Workspace::make_one_block(size_t size) {
  const size_t most = most_;
  if (is_one_block_) size = round_up(size, std::bit_floor(size) / 8);
  drop_blocks();
  most_ = most;
  is_one_block_ = true;
  add_block(size);  // where there is not as much in one piece, blocks come one by one again
}

size_t Workspace::reserved_bytes() const {
  size_t total = 0;
  for (const Block& block : blocks_) total += block.size;
  return total;
}

void Workspace::release() {
  check(scopes_ == 0, ErrorCode::kInternal,
        "the workspace is released while {} scopes hold {} bytes of it", scopes_, in_use_);
  drop_blocks();
}

void Workspace::drop_blocks() {
  blocks_.clear();
  block_ = 0;
  used_ = 0;
  in_use_ = 0;
  most_ = 0;
  is_one_block_ = false;
}

}  // namespace flux
