#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>

#include "ops/cuda/upload_ring.h"

namespace flux::cuda {

/// A stream with two pinned buffers, for an UploadRing.
class UploadStream final : public UploadDevice {
 public:
  static constexpr int64_t kBufferBytes = int64_t{64} << 20;

  explicit UploadStream(int device) : device_(device) {}
  ~UploadStream() override;
  UploadStream(const UploadStream&) = delete;
  UploadStream& operator=(const UploadStream&) = delete;

  void prepare() override;
  std::byte* buffer(size_t index) override { return buffers_[index].memory; }
  void wait_until_free(size_t index) override;
  void send(size_t index, std::byte* to, size_t bytes) override;
  void mark_done() override;
  void release() override;
  cudaEvent_t done() const { return done_; }
  /// Lets later copies begin when all that is on `other` so far has ended.
  void wait_for(cudaStream_t other);

 private:
  struct Buffer {
    std::byte* memory = nullptr;
    cudaEvent_t free = nullptr;  // its last copy to the device has ended
  };

  int device_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t done_ = nullptr;
  std::array<Buffer, UploadRing::kBuffers> buffers_{};
};

/// Brings weights from files to the GPU. One for each device; thread-safe.
class Uploader {
 public:
  explicit Uploader(int device) : stream_(device), ring_(stream_, UploadStream::kBufferBytes) {}

  /// As UploadRing::upload(). The values are there once done() is.
  void upload(const StoredTensor& from, const Tensor& to, int threads) {
    ring_.upload(from, to, threads);
  }
  /// The number of uploads so far.
  uint64_t count() const { return ring_.count(); }
  /// Lets later uploads begin when all that is on `stream` so far has ended: for memory that it
  /// reads and that they write to.
  void wait_for(cudaStream_t stream) {
    ring_.between_uploads([&] { stream_.wait_for(stream); });
  }
  /// Recorded after the last of them.
  cudaEvent_t done() const { return stream_.done(); }
  /// Gives the pinned memory back; the next upload takes it again.
  void release() { ring_.release(); }

 private:
  UploadStream stream_;
  UploadRing ring_;
};

}  // namespace flux::cuda
