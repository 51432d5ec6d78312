#pragma once

#include <cstdint>

/// bf16 values in device memory, for benchmarks.
namespace flux::cuda {

/// Normal random numbers times `scale`.
void fill_bf16(void* values, int64_t count, float scale, uint32_t seed);

struct Difference {
  double error;       // root of the mean square difference, of that of b
  double other_bits;  // share of elements
};
Difference compare_bf16(const void* a, const void* b, int64_t count);

}  // namespace flux::cuda
