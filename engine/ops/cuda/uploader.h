#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>

#include "tensor/tensor.h"

namespace flux::cuda {

/// Brings weights to the GPU: threads copy (and round) a part of the mapped file into one pinned
/// buffer while the other is on its way. One for each device; thread-safe.
class Uploader {
 public:
  explicit Uploader(int device) : device_(device) {}
  ~Uploader();
  Uploader(const Uploader&) = delete;
  Uploader& operator=(const Uploader&) = delete;

  /// Copies `from` (host, contiguous, any float dtype) to `to` (device memory, contiguous, f32 or
  /// bf16, the same shape). `from` is not needed afterwards; the values are there once done() is.
  void upload(const Tensor& from, const Tensor& to, int threads);

  /// How many uploads there were.
  uint64_t count() const { return count_.load(std::memory_order_acquire); }
  /// Recorded after the last of them.
  cudaEvent_t done() const { return done_; }
  /// Gives the pinned memory back; it comes again with the next upload.
  void release();

 private:
  struct Buffer {
    std::byte* memory = nullptr;
    cudaEvent_t free = nullptr;  // its last copy to the device has ended
  };
  void prepare();

  int device_;
  std::mutex mutex_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t done_ = nullptr;
  std::array<Buffer, 2> buffers_{};
  size_t next_ = 0;
  std::atomic<uint64_t> count_{0};
};

}  // namespace flux::cuda
