#pragma once

#include <memory>

#include "runtime/context.h"
#include "runtime/fence.h"
#include "tensor/tensor.h"

/// Tensors between the host and the context's device, and the order of the context's work.
namespace flux {

/// Waits until all work that the context began is done, so that others may use its results. Throws
/// kInternal when the device failed at it.
void finish(Context& ctx);

/// A fence behind all work that the context began; null on a CPU, where ops end before they return.
/// Contexts that wait for it may use the results of that work.
std::shared_ptr<const Fence> make_fence(Context& ctx);
/// Lets the context's next work begin when `fence`, of any context on a device of its kind, is
/// reached. The host does not wait. A null fence is reached already.
void wait_for(Context& ctx, const Fence* fence);

/// Copies x to out, of the same shape and dtype, both contiguous, between the host and the
/// context's device, or within one of them; a GPU reaches other GPUs, too. On return x may be
/// changed, and an `out` that is elsewhere (the host, another GPU) is written. Nothing is done
/// where out is x.
void copy(Context& ctx, const ConstTensor& x, const Tensor& out);

/// x where the context computes: x itself if it is there, else a copy in the workspace.
ConstTensor to_workspace(Context& ctx, const ConstTensor& x);
/// Uninitialised memory of its own where the context computes. Throws kUnavailable.
Tensor new_tensor(Context& ctx, const Shape& shape, DType dtype);
/// As new_tensor(), from the context's memory pool: for tensors that come and go with every image.
/// Until finish() only ops of this context may write to it.
Tensor pooled_tensor(Context& ctx, const Shape& shape, DType dtype);
/// As to_workspace(), but the copy is a pooled_tensor(): for parameters and other tensors that
/// outlive a forward.
ConstTensor to_device(Context& ctx, const ConstTensor& x);
Tensor to_device(Context& ctx, const Tensor& x);
/// x in host memory: itself if it is there, else a contiguous copy; rows may be strided.
ConstTensor to_host(Context& ctx, const ConstTensor& x);
/// The tensor to compute a result for `out` in, which the caller then passes to copy(): `out`
/// itself if it is where the context computes, else a tensor of the workspace.
Tensor result_for(Context& ctx, const Tensor& out);

}  // namespace flux
