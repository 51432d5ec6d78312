#pragma once

#include "ops/cuda/kernels/kernels.h"

/// The kernels of hopper_attention_kernel.cuh for each kind of queries, keys and values.
namespace flux::cuda::hopper::attention {

cudaError_t launch_bf16(std::span<const FlashAttention> segments, int multiprocessors,
                        cudaStream_t stream);
cudaError_t launch_e4m3(std::span<const FlashAttention> segments, int multiprocessors,
                        cudaStream_t stream);

}  // namespace flux::cuda::hopper::attention
