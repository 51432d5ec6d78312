#include "ops/cuda/uploader.h"

#include <algorithm>
#include <thread>
#include <vector>

#include "ops/cuda/state.h"

namespace flux::cuda {
namespace {

constexpr int64_t kBufferBytes = int64_t{64} << 20;
constexpr int64_t kWorthAThread = int64_t{1} << 20;  // bytes
constexpr int kMostThreads = 8;

/// Copies and rounds elements, in parallel: a single thread cannot keep up with the bus.
void convert(const Tensor& from, const Tensor& to, int threads) {
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

Uploader::~Uploader() {
  release();
  if (done_ != nullptr) cudaEventDestroy(done_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

void Uploader::release() {
  const std::scoped_lock lock(mutex_);
  if (stream_ != nullptr) cudaStreamSynchronize(stream_);
  for (Buffer& buffer : buffers_) {
    if (buffer.free != nullptr) cudaEventDestroy(buffer.free);
    if (buffer.memory != nullptr) cudaFreeHost(buffer.memory);
    buffer = {};
  }
}

void Uploader::prepare() {
  check_cuda(cudaSetDevice(device_), "cudaSetDevice");
  if (stream_ == nullptr) {
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  if (done_ == nullptr) {
    check_cuda(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming), "cudaEventCreate");
  }
  for (Buffer& buffer : buffers_) {
    if (buffer.memory == nullptr) {
      void* memory = nullptr;
      check_cuda(cudaMallocHost(&memory, kBufferBytes), "cudaMallocHost");
      buffer.memory = static_cast<std::byte*>(memory);
    }
    if (buffer.free == nullptr) {
      check_cuda(cudaEventCreateWithFlags(&buffer.free, cudaEventDisableTiming), "cudaEventCreate");
    }
  }
}

void Uploader::upload(const Tensor& from, const Tensor& to, int threads) {
  const std::scoped_lock lock(mutex_);
  prepare();
  const auto element = static_cast<int64_t>(size_of(to.dtype()));
  const int64_t at_once = kBufferBytes / element;
  const Tensor source = from.reshape({from.numel()});
  for (int64_t begin = 0; begin < source.numel(); begin += at_once) {
    const int64_t end = std::min(source.numel(), begin + at_once);
    Buffer& buffer = buffers_[next_++ % buffers_.size()];
    check_cuda(cudaEventSynchronize(buffer.free), "an upload of weights");
    const Tensor staged(buffer.memory, to.dtype(), {end - begin});
    convert(source.slice(0, begin, end), staged, threads);
    check_cuda(cudaMemcpyAsync(to.data<std::byte>() + begin * element, buffer.memory,
                               static_cast<size_t>((end - begin) * element), cudaMemcpyHostToDevice,
                               stream_),
               "an upload of weights");
    check_cuda(cudaEventRecord(buffer.free, stream_), "cudaEventRecord");
  }
  check_cuda(cudaEventRecord(done_, stream_), "cudaEventRecord");
  count_.fetch_add(1, std::memory_order_release);
}

}  // namespace flux::cuda
