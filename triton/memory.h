#pragma once

#include "runtime/context.h"
#include "tensor/tensor.h"
#include "triton/c_api.h"

namespace flux::triton {

/// The memory that a buffer is in, as the server names it: its type, and the number of the GPU (0
/// for host memory).
struct MemoryLocation {
  MemoryType type = MemoryType::kCpu;
  int64_t id = 0;
};

MemoryLocation location_of(const Device& device);
/// The device whose memory it is. Pinned host memory is host memory.
Device device_of(const MemoryLocation& location);

/// Copies between any two devices; both tensors have the same shape and dtype and are contiguous.
/// The copy is complete on return, unless `to` is where `ctx` computes: then ops of `ctx` come
/// after it. A context on the CPU reaches GPU memory in this way only. Throws kUnsupported, saying
/// why, for memory of a GPU that cannot be used.
void copy_anywhere(Context& ctx, const ConstTensor& from, const Tensor& to);

/// Waits for the work of `ctx` and gives its unused memory back. No scope of its workspace may be
/// open.
void release_memory(Context& ctx);

/// The memory of tensors that the pipelines hold on a device while they answer: one pool in the
/// process, whatever models there are, as long as one of them holds it. Thread-safe.
std::shared_ptr<MemoryPool> pipeline_memory(const Device& device);

/// Whether ops of `ctx` can read and write `tensor` where it is: the memory is the host's or that
/// of a GPU within reach, and the address has the alignment that the ops need.
bool is_usable(const Context& ctx, const ConstTensor& tensor);

}  // namespace flux::triton
