#include "ops/cuda/kernels/hopper_attention_launch.h"

namespace flux::cuda {

bool hopper_attention_supports(const FlashAttention& args) {
  constexpr int64_t kDim = 128;
  return (args.e4m3 ? args.dim <= kEncodedDim && args.dim % 8 == 0 : args.dim == kDim) &&
         !args.causal && args.bias == nullptr && args.scale > 0.0f;
}

cudaError_t hopper_attention(std::span<const FlashAttention> segments, int multiprocessors,
                             cudaStream_t stream) {
  return segments[0].e4m3 ? hopper::attention::launch_e4m3(segments, multiprocessors, stream)
                          : hopper::attention::launch_bf16(segments, multiprocessors, stream);
}

}  // namespace flux::cuda
