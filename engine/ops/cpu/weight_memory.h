#pragma once

#include <cstdint>
#include <span>

#include "runtime/context.h"
#include "tensor/tensor.h"

/// Memory for packed weights and the steps that packing linear and conv2d share.
namespace flux::cpu {

/// Allocates u8[bytes], aligned to 64 bytes; large blocks lie on huge pages where the system has
/// them. Throws kUnavailable when there is no memory.
Tensor allocate_weights(int64_t bytes);

/// Converts n elements from bf16 to f32.
void widen(const BFloat16* from, int64_t n, float* to);

/// Rounds n elements from f32 to bf16, to nearest even. `to` may be the start of `from`.
void narrow(const float* from, int64_t n, BFloat16* to);

/// Allocates `slot_bytes` of scratch for each thread of the context: u8[threads, slot_bytes rounded
/// up].
Tensor per_thread_scratch(Context& ctx, int64_t slot_bytes);

}  // namespace flux::cpu
