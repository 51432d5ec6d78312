#include "ops/checks.h"
#include "ops/kernels.h"

namespace flux {
namespace {

void check_binary(const Context& ctx, const char* op, const ConstTensor& a, const ConstTensor& b,
                  const Tensor& out) {
  check_rank(op, "a", a, 2);
  check_activation(ctx, op, "a", a, a.dtype());
  check_activation(ctx, op, "b", b, a.dtype(), a.shape());
  check_activation(ctx, op, "out", out, a.dtype(), a.shape());
}

}  // namespace

void activate(Context& ctx, const ConstTensor& x, Activation activation, const Tensor& out) {
  const Context::Range range(ctx, "activate");
  check_activation(ctx, "activate", "x", x, x.dtype());
  check_activation(ctx, "activate", "out", out, x.dtype(), x.shape());
  check_contiguous("activate", "x", x);
  check_contiguous("activate", "out", out);
  kernels_of(ctx).activate(ctx, x, activation, out);
}

void multiply(Context& ctx, const ConstTensor& a, const ConstTensor& b, const Tensor& out) {
  const Context::Range range(ctx, "multiply");
  check_binary(ctx, "multiply", a, b, out);
  kernels_of(ctx).multiply(ctx, a, b, out);
}

void add(Context& ctx, const ConstTensor& a, const ConstTensor& b, const Tensor& out) {
  const Context::Range range(ctx, "add");
  check_binary(ctx, "add", a, b, out);
  kernels_of(ctx).add(ctx, a, b, out);
}

}  // namespace flux
