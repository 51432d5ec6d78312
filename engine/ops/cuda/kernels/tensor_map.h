#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>

namespace flux::cuda {

/// What a tensor's elements are for the copy engine.
enum class MapElement { kBf16, kByte };

/// Describes a tensor of three dimensions, innermost first and contiguous there, for the
/// tensor copy engine: boxes of `box` elements, read as zeros outside the tensor, in rows of 128 or
/// of 64 bytes that are swizzled. strides: of the outer two dimensions, in elements, multiples of
/// 16 bytes.
cudaError_t make_tensor_map(CUtensorMap& map, MapElement element, const void* address,
                            const std::array<int64_t, 3>& sizes,
                            const std::array<int64_t, 2>& strides,
                            const std::array<int64_t, 3>& box);

}  // namespace flux::cuda
