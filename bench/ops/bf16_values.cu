#include <cmath>

#include "bench/ops/bf16_values.h"
#include "ops/cuda/kernels/device.cuh"

namespace flux::cuda {
namespace {

__global__ void fill_kernel(bf16* values, int64_t count, float scale, uint32_t seed) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  // A hash of the position, then Box and Muller's transform.
  uint64_t bits = (static_cast<uint64_t>(seed) << 40) ^ static_cast<uint64_t>(i);
  bits = (bits ^ (bits >> 31)) * 0x7fb5d329728ea185ull;
  bits = (bits ^ (bits >> 27)) * 0x81dadef4bc2dd44dull;
  bits ^= bits >> 33;
  const float u = (static_cast<float>(bits >> 40) + 1.0f) / 16777217.0f;
  const float v = static_cast<float>(bits & 0xffffff) / 16777216.0f;
  values[i] = __float2bfloat16(scale * sqrtf(-2.0f * logf(u)) * cospif(2.0f * v));
}

__global__ void compare_kernel(const bf16* a, const bf16* b, int64_t count, double* sums,
                               unsigned long long* different) {
  double difference = 0;
  double square = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const double x = to_float(a[i]);
    const double y = to_float(b[i]);
    difference += (x - y) * (x - y);
    square += y * y;
    if (__bfloat16_as_ushort(a[i]) != __bfloat16_as_ushort(b[i])) atomicAdd(different, 1ull);
  }
  atomicAdd(sums, difference);
  atomicAdd(sums + 1, square);
}

}  // namespace

void fill_bf16(void* values, int64_t count, float scale, uint32_t seed) {
  fill_kernel<<<blocks_for(count, 256), 256>>>(static_cast<bf16*>(values), count, scale, seed);
}

Difference compare_bf16(const void* a, const void* b, int64_t count) {
  struct Sums {
    double squares[2];
    unsigned long long different;
  } host{};
  Sums* sums = nullptr;
  cudaMalloc(&sums, sizeof(Sums));
  cudaMemcpy(sums, &host, sizeof(Sums), cudaMemcpyDefault);
  compare_kernel<<<1024, 256>>>(static_cast<const bf16*>(a), static_cast<const bf16*>(b), count,
                                sums->squares, &sums->different);
  cudaMemcpy(&host, sums, sizeof(Sums), cudaMemcpyDefault);
  cudaFree(sums);
  return {std::sqrt(host.squares[0] / host.squares[1]),
          static_cast<double>(host.different) / static_cast<double>(count)};
}

}  // namespace flux::cuda
