#pragma once

#include "ops/cuda/kernels/kernels.h"

/// The kernels of hopper_linear_kernel.cuh for each kind of operands. `tile`: of kTileShapes.
namespace flux::cuda::hopper::linear {

cudaError_t launch_bf16(const HopperLinear& linear, int tile, const GpuTraits& gpu,
                        cudaStream_t stream);
cudaError_t launch_e4m3(const HopperLinear& linear, int tile, const GpuTraits& gpu,
                        cudaStream_t stream);
/// The same with HopperLinear::Changes, for those of kTileShapes that have them.
cudaError_t launch_bf16_changes(const HopperLinear& linear, int tile, const GpuTraits& gpu,
                                cudaStream_t stream);
cudaError_t launch_e4m3_changes(const HopperLinear& linear, int tile, const GpuTraits& gpu,
                                cudaStream_t stream);

}  // namespace flux::cuda::hopper::linear
