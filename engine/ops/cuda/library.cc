#include <algorithm>
#include <array>
#include <mutex>

#include "ops/cuda/cuda_backend.h"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/state.h"
#include "ops/cuda_library.h"
#include "support/error.h"

/// The entry points that ops/cuda_library.cc looks up in libflux_cuda.so.
namespace flux::cuda {
namespace {

constexpr int kMaxDevices = 64;

int count_devices() {
  int devices = 0;
  const cudaError_t result = cudaGetDeviceCount(&devices);
  if (result == cudaSuccess && devices > 0) return std::min(devices, kMaxDevices);
  (void)cudaGetLastError();
  int driver = 0;
  (void)cudaDriverGetVersion(&driver);
  check(driver != 0, ErrorCode::kUnsupported,
        "there is no NVIDIA driver; install one, or use the device cpu");
  check(result != cudaErrorInsufficientDriver, ErrorCode::kUnsupported,
        "the NVIDIA driver is for CUDA {}.{}, this build needs {}.{}; install a newer driver, or "
        "use the device cpu",
        driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
  fail(ErrorCode::kUnsupported, "no NVIDIA GPU was found ({}); use the device cpu",
       cudaGetErrorString(result == cudaSuccess ? cudaErrorNoDevice : result));
}

/// Never destroyed: CUDA may be gone before the last static object is.
Backend& backend(int index) {
  static std::mutex mutex;
  static std::array<CudaBackend*, kMaxDevices> made{};
  const std::scoped_lock lock(mutex);
  check(index >= 0 && index < kMaxDevices, ErrorCode::kInternal, "there is no device cuda:{}",
        index);
  CudaBackend*& slot = made[static_cast<size_t>(index)];
  if (slot == nullptr) slot = new CudaBackend(index);
  return *slot;
}

/// Whether this is CUDA's error for a kernel that was not built for the GPU.
bool is_no_kernel(cudaError_t result) {
  return result == cudaErrorNoKernelImageForDevice || result == cudaErrorInvalidDeviceFunction ||
         result == cudaErrorUnsupportedPtxVersion;
}

}  // namespace

CudaBackend::CudaBackend(int index) : index_(index), uploader_(index) {
  const cudaError_t entered = cudaSetDevice(index);
  check(entered != cudaErrorDevicesUnavailable, ErrorCode::kUnavailable,
        "cuda:{} is out of memory or kept by another process ({}); free it, or use another device",
        index, cudaGetErrorString(entered));
  check_cuda(entered, "cudaSetDevice");
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  const cudaError_t read = read_gpu_traits(traits_);
  check(!is_no_kernel(read), ErrorCode::kUnsupported,
        "cuda:{} ({}, compute capability {}.{}): this build has no kernels for it; use the device "
        "cpu",
        index, properties.name, properties.major, properties.minor);
  check_cuda(read, "loading kernels");
}

std::shared_ptr<std::byte> CudaBackend::allocate(size_t bytes) const {
  const auto size = static_cast<int64_t>(std::max<size_t>(bytes, 1));
  const auto give_back = [this, size] { held_ -= size; };
  if (held_ += size; held_ > limit_) {
    give_back();
    return nullptr;
  }
  void* memory = nullptr;
  cudaError_t result = cudaSetDevice(index_);
  if (result == cudaSuccess) result = cudaMalloc(&memory, static_cast<size_t>(size));
  if (result != cudaSuccess) give_back();
  if (result == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    return nullptr;
  }
  check_cuda(result, "cudaMalloc");
  return {static_cast<std::byte*>(memory), [give_back](std::byte* address) {
            cudaFree(address);
            give_back();
          }};
}

int64_t CudaBackend::available_bytes() const {
  size_t free = 0;
  size_t total = 0;
  check_cuda(cudaSetDevice(index_), "cudaSetDevice");
  check_cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return std::max<int64_t>(0, std::min(limit_ - held_, static_cast<int64_t>(free)));
}

std::unique_ptr<DeviceState> CudaBackend::make_state() {
  return std::make_unique<State>(index_, traits_);
}

bool CudaBackend::supports(DType dtype) const {
  return dtype == DType::kF32 || dtype == DType::kBF16;
}

Kernels::Support CudaBackend::support(Quantization quantization, DType dtype) const {
  if (quantization == Quantization::kNone) return Support::kYes;
  if (!traits_.fp8) return Support::kNo;
  return traits_.hopper && dtype == DType::kBF16 ? Support::kYes : Support::kByValues;
}

int64_t CudaBackend::useful_tokens() const { return useful_rows(traits_); }

}  // namespace flux::cuda

extern "C" {

extern const char flux_cuda_build[];
const char flux_cuda_build[] = FLUX_ENGINE_BUILD;

void flux_cuda_open(flux::CudaLibrary& library);
void flux_cuda_open(flux::CudaLibrary& library) {
  library.devices = flux::cuda::count_devices();
  library.backend = flux::cuda::backend;
}

}  // extern "C"
