#pragma once

#include <cuda_runtime.h>

#include <type_traits>
#include <vector>

/// How kernels follow one another on a stream. From Hopper on a kernel may be launched while the
/// one ahead of it still runs, so that its blocks are in place when that one ends, and nobody waits
/// for a launch. Source: CUDA C++ Programming Guide, programmatic dependent launch.
namespace flux::cuda {

/// Begins a kernel, before it reads or writes memory: waits until all that was put on the
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

/// An attribute of the current device; 0 where it cannot be asked.
inline int device_attribute(cudaDeviceAttr which) {
  int device = 0;
  int value = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&value, which, device);
  return value;
}

/// What a thread has found out about its current device, so that launches need not ask again. It
/// begins anew when the thread turns to another device.
class LaunchMemory {
 public:
  static LaunchMemory& of_current_device() {
    thread_local LaunchMemory memory;
    int device = 0;
    cudaGetDevice(&device);
    if (device != memory.device_) memory = LaunchMemory(device);
    return memory;
  }

  /// Whether kernels may be launched before the one ahead of them has ended.
  bool early() const { return early_; }

  /// Lets blocks of the kernel have so many bytes of dynamic shared memory: more than 48 KB has to
  /// be asked for.
  cudaError_t allow_shared(const void* kernel, size_t bytes) {
    for (const Allowed& known : allowed_) {
      if (known.kernel == kernel && known.bytes >= bytes) return cudaSuccess;
    }
    const cudaError_t result = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (result == cudaSuccess) allowed_.push_back({kernel, bytes});
    return result;
  }

 private:
  struct Allowed {
    const void* kernel;
    size_t bytes;
  };

  LaunchMemory() = default;
  explicit LaunchMemory(int device)
      : device_(device), early_(device_attribute(cudaDevAttrComputeCapabilityMajor) >= 9) {}

  int device_ = -1;
  bool early_ = false;
  std::vector<Allowed> allowed_;
};

/// Puts a kernel that begins with begin_kernel() on a stream. An error also stays for who asks
/// about the launch.
template <typename... Params>
cudaError_t launch_kernel(void (*kernel)(Params...), const Grid& grid,
                          const std::type_identity_t<Params>&... args) {
  LaunchMemory& memory = LaunchMemory::of_current_device();
  if (grid.shared > 0) {
    const cudaError_t result =
        memory.allow_shared(reinterpret_cast<const void*>(kernel), grid.shared);
    if (result != cudaSuccess) return result;
  }
  cudaLaunchAttribute attributes[2]{};
  cudaLaunchConfig_t config{};
  config.gridDim = grid.blocks;
  config.blockDim = grid.threads;
  config.dynamicSmemBytes = grid.shared;
  config.stream = grid.stream;
  config.attrs = attributes;
  if (memory.early()) {
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
