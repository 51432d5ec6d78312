#pragma once

#include "runtime/context.h"
#include "tensor/tensor.h"
#include "triton/c_api.h"

namespace flux::triton {

/// Memory as the server names it. The number counts GPUs; host memory has 0.
struct Place {
  MemoryType type = MemoryType::kCpu;
  int64_t id = 0;
};

Place place_of(const Device& device);
/// Pinned host memory is host memory.
Device device_of(const Place& place);

/// Copies between any two places; same shape and dtype, both contiguous. On return an `to` that is
/// not where `ctx` computes is there. A context on the CPU can use GPU memory in this way only.
/// Throws kUnsupported for memory of a GPU that cannot be used, saying why.
void copy_anywhere(Context& ctx, const Tensor& from, const Tensor& to);

/// Whether ops of `ctx` can read and write `tensor` where it is: it is in host memory or on a GPU
/// within reach, and its address is as even as the ops want it.
bool is_usable(const Context& ctx, const Tensor& tensor);

}  // namespace flux::triton
