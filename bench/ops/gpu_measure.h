#pragma once

#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <stdexcept>

#include "ops/cuda/state.h"

/// What benchmarks of GPU kernels share: device memory, and time and energy at the power limit.
namespace flux::cuda {

template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t count) : count_(count) {
    void* memory = nullptr;
    check_cuda(cudaMalloc(&memory, static_cast<size_t>(count) * sizeof(T)), "cudaMalloc");
    data_ = static_cast<T*>(memory);
    check_cuda(cudaMemset(data_, 0xff, static_cast<size_t>(count) * sizeof(T)), "cudaMemset");
  }
  ~Buffer() { cudaFree(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* get() const { return data_; }
  int64_t size() const { return count_; }

 private:
  T* data_ = nullptr;
  int64_t count_;
};

/// The GPU's own count of the energy it took. Updated some ten times a second.
class Meter {
 public:
  Meter() {
    void* library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (library == nullptr) throw std::runtime_error("libnvidia-ml.so.1 is not here");
    const auto init = reinterpret_cast<int (*)()>(dlsym(library, "nvmlInit_v2"));
    const auto find = reinterpret_cast<int (*)(unsigned, void**)>(
        dlsym(library, "nvmlDeviceGetHandleByIndex_v2"));
    read_ = reinterpret_cast<Read>(dlsym(library, "nvmlDeviceGetTotalEnergyConsumption"));
    if (init() != 0 || find(0, &device_) != 0) throw std::runtime_error("NVML does not start");
  }
  double millijoules() const {
    unsigned long long value = 0;
    read_(device_, &value);
    return static_cast<double>(value);
  }

 private:
  using Read = int (*)(void*, unsigned long long*);
  Read read_ = nullptr;
  void* device_ = nullptr;
};

/// Of the first device, which has to be a Hopper GPU.
inline GpuTraits hopper_traits() {
  check_cuda(cudaSetDevice(0), "cudaSetDevice");
  GpuTraits traits;
  check_cuda(read_gpu_traits(traits), "loading kernels");
  if (!traits.hopper) throw std::runtime_error("no Hopper GPU is here");
  return traits;
}

struct Cost {
  double ms = 0;
  double mj = 0;
};

/// Of one run of so much work, repeated for about `seconds`.
template <typename F>
Cost measure(const Meter& meter, cudaStream_t stream, double seconds, double teraflop,
             const F& run) {
  const int count = std::max(3, static_cast<int>(seconds * 600 / teraflop));
  check_cuda(cudaStreamSynchronize(stream), "a run");
  const double energy = meter.millijoules();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < count; ++i) run();
  check_cuda(cudaStreamSynchronize(stream), "a run");
  const std::chrono::duration<double, std::milli> passed = std::chrono::steady_clock::now() - start;
  return {passed.count() / count, (meter.millijoules() - energy) / count};
}

}  // namespace flux::cuda
