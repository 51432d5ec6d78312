#include "ops/cuda/kernels/hopper_linear_kernel.cuh"
#include "ops/cuda/kernels/hopper_linear_launch.h"

namespace flux::cuda::hopper::linear {

cudaError_t launch_bf16_changes(const HopperLinear& linear, int tile, const GpuTraits& gpu,
                                cudaStream_t stream) {
  return launch_tile<Bf16Operands, true>(linear, tile, gpu, stream);
}

}  // namespace flux::cuda::hopper::linear
