#include <vector>

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

/// All that a map depends on.
struct MapKey {
  const void* address = nullptr;
  MapElement element = MapElement::kBf16;
  std::array<int64_t, 3> sizes{};
  std::array<int64_t, 2> strides{};
  std::array<int64_t, 3> box{};

  friend bool operator==(const MapKey&, const MapKey&) = default;
  size_t hash() const {
    uint64_t hash = reinterpret_cast<uintptr_t>(address) + static_cast<uint64_t>(element);
    const auto mix = [&](const auto& numbers) {
      for (const int64_t number : numbers) {
        hash = (hash ^ static_cast<uint64_t>(number)) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 32;
      }
    };
    mix(sizes);
    mix(strides);
    mix(box);
    return hash;
  }
};

cudaError_t encode_map(CUtensorMap& map, const MapKey& key) {
  static const Encode encode = find_encode();
  if (encode == nullptr) return cudaErrorNotSupported;
  cuuint64_t dims[3];
  cuuint64_t bytes[2];
  cuuint32_t boxes[3];
  const cuuint32_t steps[3] = {1, 1, 1};
  for (size_t i = 0; i < 3; ++i) {
    dims[i] = static_cast<cuuint64_t>(key.sizes[i]);
    boxes[i] = static_cast<cuuint32_t>(key.box[i]);
  }
  const bool is_byte = key.element == MapElement::kByte;
  for (size_t i = 0; i < 2; ++i) {
    bytes[i] = static_cast<cuuint64_t>(key.strides[i]) * (is_byte ? 1 : 2);
  }
  const auto swizzle =
      boxes[0] * (is_byte ? 1 : 2) == 64 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B;
  const CUresult result = encode(
      &map, is_byte ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3,
      const_cast<void*>(key.address), dims, bytes, boxes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

struct KnownMap {
  MapKey key{};
  CUtensorMap map{};
};

/// Where a thread keeps the map of this key, if it has not kept another one there since. Weights
/// and the workspace are at the same addresses in every step, and an encoding by the driver takes
/// longer than to find one. A map does not depend on what is at its address.
KnownMap& known_map(const MapKey& key) {
  constexpr size_t kPlaces = 4096;  // FLUX.1-dev's steps use some 700
  thread_local std::vector<KnownMap> maps(kPlaces);
  return maps[key.hash() % kPlaces];
}

}  // namespace

cudaError_t make_tensor_map(CUtensorMap& map, MapElement element, const void* address,
                            const std::array<int64_t, 3>& sizes,
                            const std::array<int64_t, 2>& strides,
                            const std::array<int64_t, 3>& box) {
  const MapKey key{address, element, sizes, strides, box};
  KnownMap& known = known_map(key);
  if (known.key != key) {
    known.key = {};  // of no map, should there be none
    const cudaError_t result = encode_map(known.map, key);
    if (result != cudaSuccess) return result;
    known.key = key;
  }
  map = known.map;
  return cudaSuccess;
}

}  // namespace flux::cuda
