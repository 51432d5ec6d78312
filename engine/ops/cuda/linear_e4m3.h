#pragma once

#include "ops/cuda/dense.h"
#include "ops/cuda/uploader.h"

/// Linears whose products are of e4m3, by hopper_linear().
namespace flux::cuda {

/// Whether these weights can be packed by pack_e4m3().
bool suits_e4m3(const GpuTraits& gpu, std::span<const StoredTensor> weights, DType dtype);

/// As pack_linear() with kFp8: weights that are e4m3 as stored keep their numbers and scales, the
/// others come to the GPU as they are stored, or in `dtype`, and are encoded there.
std::shared_ptr<const PackedWeights> pack_e4m3(Context& ctx, Uploader& uploader,
                                               std::span<const StoredTensor> weights,
                                               std::span<const ConstTensor> biases, DType dtype);

/// linear() of such weights.
void linear_e4m3(Context& ctx, State& state, std::span<const LinearPart> parts);

}  // namespace flux::cuda
