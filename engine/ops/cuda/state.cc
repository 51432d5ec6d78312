#include "ops/cuda/state.h"

#include "ops/kernels.h"
#include "support/error.h"
#include "tensor/format.h"

namespace flux::cuda {
namespace {

/// With less memory free than this, a failed call failed for memory, whatever it says: loading a
/// kernel takes some MiB, and libraries name their own failure instead.
constexpr size_t kAlmostFull = size_t{64} << 20;

/// `failure`: what failed, and how.
[[noreturn]] void fail_on_gpu(bool out_of_memory, std::string_view failure) {
  (void)cudaGetLastError();  // forgets an error that can be recovered from
  int device = 0;
  size_t free = 0;
  size_t total = 0;
  (void)cudaGetDevice(&device);
  // After an error that cannot be recovered from this fails, too.
  const bool known = cudaMemGetInfo(&free, &total) == cudaSuccess;
  (void)cudaGetLastError();
  check(!out_of_memory && !(known && free < kAlmostFull), ErrorCode::kUnavailable,
        "out of memory on cuda:{}: {}{}; generate smaller or fewer images, or free memory there",
        device, failure, known ? fmt::format(", {} bytes are free", free) : std::string());
  fail(ErrorCode::kInternal, "cuda:{}: {}", device, failure);
}

}  // namespace

void fail_cuda(cudaError_t result, std::string_view call) {
  fail_on_gpu(result == cudaErrorMemoryAllocation,
              fmt::format("{} failed: {} ({})", call, cudaGetErrorString(result),
                          cudaGetErrorName(result)));
}

void fail_cublas(cublasStatus_t status, std::string_view call) {
  fail_on_gpu(status == CUBLAS_STATUS_ALLOC_FAILED,
              fmt::format("{} failed: {}", call, cublasLtGetStatusString(status)));
}

State::State(int device, const GpuTraits& traits) : device_(device), traits_(traits) {
  check_cuda(cudaSetDevice(device), "cudaSetDevice");
  check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
}

State::~State() {
  cudaSetDevice(device_);
  cudaStreamSynchronize(stream_);
  cudaFree(product_workspace_);
  if (cublas_ != nullptr) cublasLtDestroy(cublas_);
  cudaStreamDestroy(stream_);
}

cublasLtHandle_t State::cublas() {
  if (cublas_ == nullptr) check_cublas(cublasLtCreate(&cublas_), "cublasLtCreate");
  return cublas_;
}

void* State::product_workspace() {
  if (product_workspace_ == nullptr) {
    check_cuda(cudaMalloc(&product_workspace_, kProductBytes),
               fmt::format("cudaMalloc of {} bytes for matrix products", kProductBytes));
  }
  return product_workspace_;
}

void State::wait_for_uploads(uint64_t uploads, cudaEvent_t done) {
  if (uploads == uploads_seen_) return;
  check_cuda(cudaStreamWaitEvent(stream_, done, 0), "cudaStreamWaitEvent");
  uploads_seen_ = uploads;
}

State& state_of(Context& ctx) {
  auto* state = static_cast<State*>(ctx.state());
  check(state != nullptr, ErrorCode::kInternal, "the context has no CUDA stream");
  int current = -1;
  if (cudaGetDevice(&current) != cudaSuccess || current != state->device()) {
    check_cuda(cudaSetDevice(state->device()), "cudaSetDevice");
  }
  return *state;
}

const void* address(const Context& ctx, const ConstTensor& tensor) {
  check(tensor.device() == ctx.device(), ErrorCode::kInternal,
        "a tensor {} is on {}, but {} computes", tensor, tensor.device(), ctx.device());
  return tensor.raw();
}

void* address(const Context& ctx, const Tensor& tensor) {
  address(ctx, static_cast<const ConstTensor&>(tensor));  // checks the device
  return tensor.raw();
}

const void* optional_address(const Context& ctx, const ConstTensor& tensor) {
  return tensor.defined() ? address(ctx, tensor) : nullptr;
}

const float* optional_floats(const Context& ctx, const ConstTensor& tensor) {
  return static_cast<const float*>(optional_address(ctx, tensor));
}

}  // namespace flux::cuda
