#include "ops/cuda/upload_ring.h"

#include <algorithm>
#include <thread>
#include <vector>

namespace flux::cuda {
namespace {

constexpr int64_t kWorthAThread = int64_t{1} << 20;  // bytes
constexpr int kMostThreads = 8;

/// Copies and rounds elements, in parallel: a single thread cannot keep up with the bus.
void convert(const ConstTensor& from, const Tensor& to, int threads) {
  const int64_t count = from.numel();
  const int64_t useful = std::max<int64_t>(1, to.bytes() / kWorthAThread);
  const int64_t parts = std::min<int64_t>({threads, kMostThreads, useful});
  const auto part = [&](int64_t i) {
    const int64_t begin = count * i / parts;
    const int64_t end = count * (i + 1) / parts;
    copy_convert(from.slice(0, begin, end), to.slice(0, begin, end));
  };
  std::vector<std::jthread> others;
  for (int64_t i = 1; i < parts; ++i) others.emplace_back(part, i);
  part(0);
}

}  // namespace

void UploadRing::upload(const ConstTensor& from, const Tensor& to, int threads) {
  const std::scoped_lock lock(mutex_);
  device_.prepare();
  const auto element = static_cast<int64_t>(size_of(to.dtype()));
  const int64_t at_once = buffer_bytes_ / element;
  const ConstTensor source = from.reshape({from.numel()});
  for (int64_t begin = 0; begin < source.numel(); begin += at_once) {
    const int64_t end = std::min(source.numel(), begin + at_once);
    const size_t buffer = next_++ % kBuffers;
    device_.wait_until_free(buffer);
    const Tensor staged(device_.buffer(buffer), to.dtype(), {end - begin});
    convert(source.slice(0, begin, end), staged, threads);
    device_.send(buffer, to.data<std::byte>() + begin * element,
                 static_cast<size_t>((end - begin) * element));
  }
  device_.mark_done();
  count_.fetch_add(1, std::memory_order_release);
}

void UploadRing::release() {
  const std::scoped_lock lock(mutex_);
  device_.release();
}

}  // namespace flux::cuda
