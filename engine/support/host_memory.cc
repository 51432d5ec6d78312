#include "support/host_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "support/integer.h"

namespace flux {
namespace {

/// From here on a block is mapped. A mapping costs microseconds and a fault for each page.
constexpr size_t kLarge = size_t{128} << 10;

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kMaps = false;  // AddressSanitizer watches the heap alone
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
constexpr bool kMaps = false;
#else
constexpr bool kMaps = true;
#endif
#else
constexpr bool kMaps = true;
#endif

std::shared_ptr<std::byte> map_block(size_t bytes, size_t alignment) {
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t size = round_up(bytes, page);
  const size_t slack = alignment > page ? alignment : 0;
  void* memory =
      ::mmap(nullptr, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  auto* const begin = static_cast<std::byte*>(memory);
  std::byte* const block = begin + (round_up(reinterpret_cast<uintptr_t>(begin), alignment) -
                                    reinterpret_cast<uintptr_t>(begin));
  if (block > begin) ::munmap(begin, static_cast<size_t>(block - begin));
  std::byte* const end = block + size;
  const auto after = static_cast<size_t>(begin + size + slack - end);
  if (after > 0) ::munmap(end, after);
  return {block, [size](std::byte* address) { ::munmap(address, size); }};
}

}  // namespace

std::shared_ptr<std::byte> allocate_host(size_t bytes, size_t alignment) {
  if (kMaps && bytes >= kLarge) return map_block(bytes, alignment);
  void* memory = std::aligned_alloc(alignment, round_up(std::max<size_t>(bytes, 1), alignment));
  if (memory == nullptr) return nullptr;
  return {static_cast<std::byte*>(memory), [](std::byte* address) { std::free(address); }};
}

}  // namespace flux
