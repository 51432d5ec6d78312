#pragma once

#include "runtime/context.h"
#include "support/error.h"
#include "tensor/format.h"

/// Argument checks shared by the ops. They fail with kInternal: models validate user input first.
namespace flux {

/// `tensor` lives where the context computes; one without elements may be anywhere.
inline void check_device(const Context& ctx, const char* op, const char* name,
                         const ConstTensor& tensor) {
  check(tensor.device() == ctx.device() || tensor.numel() == 0, ErrorCode::kInternal,
        "{}: {} {} is on {}, but {} computes", op, name, tensor, tensor.device(), ctx.device());
}

/// `tensor` is defined, lives where the context computes and has the dtype T of activations.
inline void check_activation(const Context& ctx, const char* op, const char* name,
                             const ConstTensor& tensor, DType dtype) {
  check(tensor.defined() || tensor.numel() == 0, ErrorCode::kInternal, "{}: {} is not defined", op,
        name);
  check(tensor.dtype() == dtype && (dtype == DType::kF32 || dtype == DType::kBF16),
        ErrorCode::kInternal, "{}: {} is {}, but activations must all be f32 or all bf16", op, name,
        tensor);
  check_device(ctx, op, name, tensor);
}

/// As check_activation, and of exactly this shape.
inline void check_activation(const Context& ctx, const char* op, const char* name,
                             const ConstTensor& tensor, DType dtype, const Shape& shape) {
  check_activation(ctx, op, name, tensor, dtype);
  check(tensor.shape() == shape, ErrorCode::kInternal, "{}: {} is {}, but {} is needed", op, name,
        tensor, shape);
}

/// `tensor` is a contiguous f32 parameter of exactly this shape.
inline void check_parameter(const Context& ctx, const char* op, const char* name,
                            const ConstTensor& tensor, const Shape& shape) {
  check(tensor.defined() && tensor.dtype() == DType::kF32 && tensor.shape() == shape &&
            tensor.is_contiguous(),
        ErrorCode::kInternal, "{}: {} is {}, but a contiguous f32{} is needed", op, name, tensor,
        shape);
  check_device(ctx, op, name, tensor);
}

/// As check_parameter, for a parameter that may be left out.
inline void check_optional_parameter(const Context& ctx, const char* op, const char* name,
                                     const ConstTensor& tensor, const Shape& shape) {
  if (tensor.defined()) check_parameter(ctx, op, name, tensor, shape);
}

/// `tensor` is e4m3 of exactly this shape, with a scale for each row or one for all.
inline void check_e4m3(const Context& ctx, const char* op, const char* name,
                       const ConstTensor& tensor, const ConstTensor& scales, const Shape& shape) {
  check(tensor.dtype() == DType::kU8 && tensor.shape() == shape && scales.defined() &&
            scales.rank() == 1 && scales.is_contiguous() && scales.dtype() == DType::kF32 &&
            (scales.size(0) == shape[0] || scales.size(0) == 1),
        ErrorCode::kInternal, "{}: {} is {} with scales {}, but e4m3{} with f32 scales is needed",
        op, name, tensor, scales, shape);
  check_device(ctx, op, name, tensor);
  check_device(ctx, op, name, scales);
}

inline void check_rank(const char* op, const char* name, const ConstTensor& tensor, int rank) {
  check(tensor.rank() == rank, ErrorCode::kInternal, "{}: {} is {}, but rank {} is needed", op,
        name, tensor, rank);
}

inline void check_contiguous(const char* op, const char* name, const ConstTensor& tensor) {
  check(tensor.is_contiguous(), ErrorCode::kInternal, "{}: {} {} must be contiguous", op, name,
        tensor);
}

}  // namespace flux
