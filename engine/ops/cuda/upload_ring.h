#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>

#include "tensor/encoding.h"

namespace flux::cuda {

/// The calls to a GPU that an upload makes. Each throws when the driver reports a failure.
class UploadDevice {
 public:
  virtual ~UploadDevice() = default;

  /// Makes whatever is missing of buffers, stream and events, for the calling thread.
  virtual void prepare() = 0;
  /// The pinned host memory of a buffer.
  virtual std::byte* buffer(size_t index) = 0;
  /// Waits until the last send() of a buffer has ended.
  virtual void wait_until_free(size_t index) = 0;
  /// Begins to copy the first `bytes` of a buffer to `to` in device memory, after earlier copies.
  virtual void send(size_t index, std::byte* to, size_t bytes) = 0;
  /// Marks the end of an upload, behind its copies.
  virtual void mark_done() = 0;
  /// Waits for all copies and frees the buffers.
  virtual void release() = 0;
};

/// Brings tensors to a device through two pinned buffers that take turns: threads convert a part of
/// the tensor into one buffer while the other is copied to the device. Thread-safe.
class UploadRing {
 public:
  static constexpr size_t kBuffers = 2;

  /// `device` must outlive the ring; its buffers have `buffer_bytes` each.
  UploadRing(UploadDevice& device, int64_t buffer_bytes)
      : device_(device), buffer_bytes_(buffer_bytes) {}
  UploadRing(const UploadRing&) = delete;
  UploadRing& operator=(const UploadRing&) = delete;

  /// Copies the data of `from` (contiguous; any float dtype, or bytes of an encoding) to `to`
  /// (device memory, contiguous; f32 or bf16, or those bytes; the same shape). What has not been
  /// read is read into the buffers. `from` is not needed afterwards.
  void upload(const StoredTensor& from, const Tensor& to, int threads);

  /// Calls f, which may use the prepared device, while there is no upload.
  template <typename F>
  void between_uploads(const F& f) {
    const std::scoped_lock lock(mutex_);
    device_.prepare();
    f();
  }

  /// The number of uploads so far. Who reads it finds the mark of each of them made.
  uint64_t count() const { return count_.load(std::memory_order_acquire); }
  /// Frees the buffers; the next upload makes them again.
  void release();

 private:
  void send(const StoredTensor& from, const Tensor& to, int threads);

  UploadDevice& device_;
  int64_t buffer_bytes_;
  std::mutex mutex_;
  size_t next_ = 0;
  std::atomic<uint64_t> count_{0};
};

}  // namespace flux::cuda
