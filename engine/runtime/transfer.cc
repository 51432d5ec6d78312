#include "runtime/transfer.h"

#include "support/error.h"
#include "tensor/format.h"

namespace flux {
namespace {

/// Whether `tensor` is in the memory that the context computes in.
bool is_local(const Context& ctx, const ConstTensor& tensor) {
  return tensor.device() == ctx.device();
}

/// Whether the context can copy from and to where `tensor` is.
bool is_reachable(const Context& ctx, const ConstTensor& tensor) {
  return tensor.device().is_cpu() || tensor.device().kind == ctx.device().kind;
}

size_t bytes_of(const Shape& shape, DType dtype) {
  return static_cast<size_t>(shape.numel()) * size_of(dtype);
}

/// `memory` may be null.
Tensor tensor_in(Context& ctx, const std::shared_ptr<std::byte>& memory, const Shape& shape,
                 DType dtype) {
  if (memory == nullptr) {
    fail_out_of_memory(ctx.runtime(), bytes_of(shape, dtype), fmt::format("a tensor {}", shape));
  }
  return Tensor(memory.get(), dtype, shape, ctx.device(), memory);
}

}  // namespace

void finish(Context& ctx) { ctx.runtime().finish(ctx); }

std::shared_ptr<const Fence> make_fence(Context& ctx) { return ctx.runtime().make_fence(ctx); }

void wait_for(Context& ctx, const Fence* fence) {
  if (fence != nullptr) ctx.runtime().wait_for(ctx, *fence);
}

void copy(Context& ctx, const ConstTensor& x, const Tensor& out) {
  check(x.shape() == out.shape() && x.dtype() == out.dtype(), ErrorCode::kInternal,
        "copy: {} to {}", x, out);
  check(x.is_contiguous() && out.is_contiguous(), ErrorCode::kInternal,
        "copy: {} to {}: both must be contiguous", x, out);
  for (const ConstTensor* tensor : std::initializer_list<const ConstTensor*>{&x, &out}) {
    check(is_reachable(ctx, *tensor), ErrorCode::kInternal,
          "copy: a tensor is on {}, the context computes on {}", tensor->device(), ctx.device());
  }
  if (x.numel() > 0 && x.raw() != out.raw()) ctx.runtime().copy(ctx, x, out);
}

ConstTensor to_workspace(Context& ctx, const ConstTensor& x) {
  if (is_local(ctx, x)) return x;
  const Tensor result = ctx.workspace().allocate(x.shape(), x.dtype());
  copy(ctx, x, result);
  return result;
}

Tensor new_tensor(Context& ctx, const Shape& shape, DType dtype) {
  return tensor_in(ctx, ctx.runtime().allocate(bytes_of(shape, dtype)), shape, dtype);
}

Tensor pooled_tensor(Context& ctx, const Shape& shape, DType dtype) {
  // Host memory is cheap to get and to give back.
  if (ctx.device().is_cpu()) return new_tensor(ctx, shape, dtype);
  return tensor_in(ctx, ctx.memory().take(bytes_of(shape, dtype)), shape, dtype);
}

namespace {

Tensor copied_to_device(Context& ctx, const ConstTensor& x) {
  const Tensor result = pooled_tensor(ctx, x.shape(), x.dtype());
  copy(ctx, x, result);
  return result;
}

}  // namespace

ConstTensor to_device(Context& ctx, const ConstTensor& x) {
  return is_local(ctx, x) ? x : copied_to_device(ctx, x);
}

Tensor to_device(Context& ctx, const Tensor& x) {
  return is_local(ctx, x) ? x : copied_to_device(ctx, x);
}

ConstTensor to_host(Context& ctx, const ConstTensor& x) {
  if (x.device().is_cpu()) return x;
  const Tensor result = Tensor::allocate(x.shape(), x.dtype());
  if (x.is_contiguous()) {
    copy(ctx, x, result);
  } else {
    for (int64_t i = 0; i < x.size(0); ++i) copy(ctx, x[i], result[i]);
  }
  return result;
}

Tensor result_for(Context& ctx, const Tensor& out) {
  return is_local(ctx, out) ? out : ctx.workspace().allocate(out.shape(), out.dtype());
}

}  // namespace flux
