#include "ops/cpu/weight_memory.h"

#include <sys/mman.h>

#include <cstring>

#include "support/error.h"
#include "support/host_memory.h"
#include "support/integer.h"

namespace flux::cpu {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;

}  // namespace

Tensor allocate_weights(int64_t bytes) {
  // A page-table walk for each 4 KiB of a weight costs as much as reading it from the L3 cache.
  const int64_t alignment = bytes >= 2 * kHugePage ? kHugePage : 64;
  const int64_t size = round_up(bytes, 64);
  const std::shared_ptr<std::byte> memory =
      allocate_host(static_cast<size_t>(size), static_cast<size_t>(alignment));
  check(memory != nullptr, ErrorCode::kUnavailable,
        "out of memory: {} bytes for packed weights; use a smaller model or bf16", size);
  if (alignment == kHugePage) {
    // The rest lies on small pages: models have hundreds of weights, and would lose as many MiB.
    madvise(memory.get(), static_cast<size_t>(size / kHugePage * kHugePage), MADV_HUGEPAGE);
  }
  return Tensor(memory.get(), DType::kU8, Shape{size}, Device{}, memory);
}

void widen(const BFloat16* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t word = static_cast<uint32_t>(from[i].bits) << 16;
    std::memcpy(to + i, &word, sizeof(word));
  }
}

void narrow(const float* from, int64_t n, BFloat16* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = BFloat16(from[i]);
}

Tensor per_thread_scratch(Context& ctx, int64_t slot_bytes) {
  return ctx.workspace().allocate({ctx.threads(), round_up(slot_bytes, 64)}, DType::kU8);
}

}  // namespace flux::cpu
