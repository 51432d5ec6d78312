#include "ops/cuda/uploader.h"

#include "ops/cuda/state.h"

namespace flux::cuda {

UploadStream::~UploadStream() {
  release();
  if (done_ != nullptr) cudaEventDestroy(done_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

void UploadStream::release() {
  if (stream_ != nullptr) cudaStreamSynchronize(stream_);
  for (Buffer& buffer : buffers_) {
    if (buffer.free != nullptr) cudaEventDestroy(buffer.free);
    if (buffer.memory != nullptr) cudaFreeHost(buffer.memory);
    buffer = {};
  }
}

void UploadStream::prepare() {
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

void UploadStream::wait_until_free(size_t index) {
  check_cuda(cudaEventSynchronize(buffers_[index].free), "an upload of weights");
}

void UploadStream::send(size_t index, std::byte* to, size_t bytes) {
  const Buffer& buffer = buffers_[index];
  check_cuda(cudaMemcpyAsync(to, buffer.memory, bytes, cudaMemcpyHostToDevice, stream_),
             "an upload of weights");
  check_cuda(cudaEventRecord(buffer.free, stream_), "cudaEventRecord");
}

void UploadStream::wait_for(cudaStream_t other) {
  cudaEvent_t reached = nullptr;
  check_cuda(cudaEventCreateWithFlags(&reached, cudaEventDisableTiming), "cudaEventCreate");
  cudaError_t result = cudaEventRecord(reached, other);
  if (result == cudaSuccess) result = cudaStreamWaitEvent(stream_, reached, 0);
  cudaEventDestroy(reached);  // when it has been reached
  check_cuda(result, "cudaStreamWaitEvent");
}

void UploadStream::mark_done() { check_cuda(cudaEventRecord(done_, stream_), "cudaEventRecord"); }

}  // namespace flux::cuda
