#include "ops/cuda/upload_ring.h"

#include <algorithm>

#include "support/parts.h"

namespace flux::cuda {
namespace {

constexpr int64_t kWorthAThread = int64_t{1} << 20;  // bytes
constexpr int kMostThreads = 8;

/// Copies or reads elements and rounds them, in parallel: a single thread cannot keep up with the
/// bus.
void convert(const ConstTensor& from, const FileBytes* file, const Tensor& to, int threads) {
  const int64_t count = from.numel();
  const int64_t useful = std::max<int64_t>(1, to.bytes() / kWorthAThread);
  const int64_t parts = std::min<int64_t>({threads, kMostThreads, useful});
  for_each_part(parts, [&](int64_t i) {
    const int64_t begin = count * i / parts;
    const int64_t end = count * (i + 1) / parts;
    read_convert(from.slice(0, begin, end), file, to.slice(0, begin, end));
  });
}

}  // namespace

void UploadRing::upload(const StoredTensor& from, const Tensor& to, int threads) {
  const std::scoped_lock lock(mutex_);
  device_.prepare();
  try {
    send(from, to, threads);
  } catch (...) {
    device_.release();  // copies to `to`, which the caller gives up now, must not go on
    throw;
  }
  device_.mark_done();
  count_.fetch_add(1, std::memory_order_release);
}

void UploadRing::send(const StoredTensor& from, const Tensor& to, int threads) {
  const auto element = static_cast<int64_t>(size_of(to.dtype()));
  const int64_t at_once = buffer_bytes_ / element;
  const ConstTensor source = from.data.reshape({from.data.numel()});
  for (int64_t begin = 0; begin < source.numel(); begin += at_once) {
    const int64_t end = std::min(source.numel(), begin + at_once);
    const size_t buffer = next_++ % kBuffers;
    device_.wait_until_free(buffer);
    const Tensor staged(device_.buffer(buffer), to.dtype(), {end - begin});
    convert(source.slice(0, begin, end), from.file.get(), staged, threads);
    device_.send(buffer, to.data<std::byte>() + begin * element,
                 static_cast<size_t>((end - begin) * element));
  }
}

void UploadRing::release() {
  const std::scoped_lock lock(mutex_);
  device_.release();
}

}  // namespace flux::cuda
