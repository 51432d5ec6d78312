#pragma once

#include <cuda_runtime.h>

#include <type_traits>

/// How kernels follow one another on a stream. From Hopper on a kernel may be launched while the
/// one ahead of it still runs, so that its blocks are in place when that one ends, and nobody waits
/// for a launch. Source: CUDA C++ Programming Guide, programmatic dependent launch.
namespace flux::cuda {

/// What each kernel does before it reads or writes memory: waits until all that was put on the
/// stream before is done. From there on the next kernel's blocks may come, too.
__device__ inline void begin_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;\ngriddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}

struct Grid {
  dim3 blocks;
  dim3 threads;  // of a block
  cudaStream_t stream;
  size_t shared = 0;     // bytes of a block
  unsigned cluster = 1;  // blocks
};

/// Of the current device; 0 where it cannot be asked.
inline int device_attribute(cudaDeviceAttr which) {
  int device = 0;
  int value = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&value, which, device);
  return value;
}

/// Puts a kernel that begins with begin_kernel() on a stream. An error also stays for who asks
/// about the launch.
template <typename... Params>
cudaError_t launch_kernel(void (*kernel)(Params...), const Grid& grid,
                          const std::type_identity_t<Params>&... args) {
  if (grid.shared > 0) {  // more than 48 KB has to be asked for
    const cudaError_t result = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(grid.shared));
    if (result != cudaSuccess) return result;
  }
  cudaLaunchAttribute attributes[2]{};
  cudaLaunchConfig_t config{};
  config.gridDim = grid.blocks;
  config.blockDim = grid.threads;
  config.dynamicSmemBytes = grid.shared;
  config.stream = grid.stream;
  config.attrs = attributes;
  if (device_attribute(cudaDevAttrComputeCapabilityMajor) >= 9) {
    cudaLaunchAttribute& early = attributes[config.numAttrs++];
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
  }
  // Said here and not at the kernel: compilers for older GPUs know no clusters.
  if (grid.cluster > 1) {
    cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {grid.cluster, 1, 1};
  }
  return cudaLaunchKernelEx(&config, kernel, args...);
}

}  // namespace flux::cuda
