#include "ops/cuda/kernels/tensor_map.h"

namespace flux::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

/// The driver's function, found at run time: nothing links the driver.
Encode find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                       cudaEnableDefault, &found) != cudaSuccess ||
      found != cudaDriverEntryPointSuccess) {
    return nullptr;
  }
  return reinterpret_cast<Encode>(function);
}

}  // namespace

cudaError_t make_tensor_map(CUtensorMap& map, const void* address,
                            const std::array<int64_t, 3>& sizes,
                            const std::array<int64_t, 2>& strides,
                            const std::array<int64_t, 3>& box) {
  static const Encode encode = find_encode();
  if (encode == nullptr) return cudaErrorNotSupported;
  cuuint64_t dims[3];
  cuuint64_t bytes[2];
  cuuint32_t boxes[3];
  const cuuint32_t steps[3] = {1, 1, 1};
  for (size_t i = 0; i < 3; ++i) {
    dims[i] = static_cast<cuuint64_t>(sizes[i]);
    boxes[i] = static_cast<cuuint32_t>(box[i]);
  }
  for (size_t i = 0; i < 2; ++i) bytes[i] = static_cast<cuuint64_t>(strides[i]) * 2;
  const CUresult result =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(address), dims, bytes,
             boxes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace flux::cuda
