#include "ops/cuda/state.h"

#include "ops/backend.h"

namespace flux::cuda {

void check_cuda(cudaError_t result, const char* call) {
  if (result == cudaSuccess) return;
  (void)cudaGetLastError();  // forgets an error that can be recovered from
  check(result != cudaErrorMemoryAllocation, ErrorCode::kUnavailable,
        "out of GPU memory in {}; draw smaller or fewer images, or free memory on the GPU", call);
  fail(ErrorCode::kInternal, "CUDA: {} failed: {} ({})", call, cudaGetErrorString(result),
       cudaGetErrorName(result));
}

void check_launch(const char* op) { check_cuda(cudaGetLastError(), op); }

State::State(int device) : device_(device) {
  check_cuda(cudaSetDevice(device), "cudaSetDevice");
  traits_ = gpu_traits();
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
  if (cublas_ == nullptr) {
    const cublasStatus_t made = cublasLtCreate(&cublas_);
    check(made == CUBLAS_STATUS_SUCCESS, ErrorCode::kUnavailable,
          "cuBLASLt cannot be started on cuda:{}: {}; is its memory full?", device_,
          cublasLtGetStatusString(made));
  }
  return cublas_;
}

void* State::product_workspace() {
  if (product_workspace_ == nullptr) {
    check_cuda(cudaMalloc(&product_workspace_, kProductBytes), "cudaMalloc");
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
  check_cuda(cudaSetDevice(state->device()), "cudaSetDevice");
  return *state;
}

void* address(const Context& ctx, const Tensor& tensor) {
  check(tensor.device() == ctx.backend().device(), ErrorCode::kInternal,
        "a tensor {} is on {}, but {} computes", describe(tensor), to_string(tensor.device()),
        to_string(ctx.backend().device()));
  return tensor.raw();
}

void* optional_address(const Context& ctx, const Tensor& tensor) {
  return tensor.defined() ? address(ctx, tensor) : nullptr;
}

const float* optional_floats(const Context& ctx, const Tensor& tensor) {
  return static_cast<const float*>(optional_address(ctx, tensor));
}

}  // namespace flux::cuda
