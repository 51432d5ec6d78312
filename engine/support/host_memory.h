#pragma once

#include <cstddef>
#include <memory>

namespace flux {

/// Allocates bytes of host memory, at an address that is a multiple of `alignment` (a power of two,
/// at least 64). Null when there is none.
///
/// A large block is a mapping of its own, which goes back to the system when it is freed. From the
/// heap it would leave holes: glibc keeps a heap for each few threads, and takes ever larger blocks
/// from them once one has been freed.
std::shared_ptr<std::byte> allocate_host(size_t bytes, size_t alignment = 64);

}  // namespace flux
