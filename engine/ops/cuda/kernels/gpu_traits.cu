#include "ops/cuda/kernels/gpu_traits.h"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/kernels/launch.cuh"

namespace flux::cuda {
namespace {

__global__ void probe_kernel() {}

}  // namespace

cudaError_t read_gpu_traits(GpuTraits& traits) {
  cudaFuncAttributes attributes{};
  const cudaError_t result = cudaFuncGetAttributes(&attributes, probe_kernel);
  if (result != cudaSuccess) return result;
  const GpuFigures gpu{.major = device_attribute(cudaDevAttrComputeCapabilityMajor),
                       .minor = device_attribute(cudaDevAttrComputeCapabilityMinor),
                       .multiprocessors = device_attribute(cudaDevAttrMultiProcessorCount),
                       .clock_khz = device_attribute(cudaDevAttrClockRate),
                       .memory_clock_khz = device_attribute(cudaDevAttrMemoryClockRate),
                       .memory_bus_bits = device_attribute(cudaDevAttrGlobalMemoryBusWidth),
                       .l2_bytes = device_attribute(cudaDevAttrL2CacheSize)};
  traits = make_gpu_traits(gpu, attributes.binaryVersion == 90);
  return cudaSuccess;
}

}  // namespace flux::cuda
