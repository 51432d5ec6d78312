#include "ops/workspace.h"

#include <algorithm>

#include "ops/backend.h"
#include "support/error.h"

namespace flux {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kMinimumBlock = size_t{8} << 20;

size_t round_up(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

Tensor Workspace::allocate(const Shape& shape, DType dtype) {
  const size_t bytes = round_up(static_cast<size_t>(shape.numel()) * size_of(dtype));
  while (block_ < blocks_.size() && used_ + bytes > blocks_[block_].size) {
    ++block_;
    used_ = 0;
  }
  if (block_ == blocks_.size()) {
    const size_t size = std::max(bytes, kMinimumBlock);
    auto memory = backend_->allocate(size);
    if (memory == nullptr) {
      fail_out_of_memory(*backend_, size,
                         fmt::format("workspace beside the {} held", reserved_bytes()));
    }
    blocks_.push_back(Block{std::move(memory), size});
  }
  void* data = blocks_[block_].memory.get() + used_;
  used_ += bytes;
  return Tensor(data, dtype, shape, backend_->device());
}

size_t Workspace::reserved_bytes() const {
  size_t total = 0;
  for (const Block& block : blocks_) total += block.size;
  return total;
}

void Workspace::release() {
  blocks_.clear();
  block_ = 0;
  used_ = 0;
}

}  // namespace flux
