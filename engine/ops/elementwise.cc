#include "ops/checks.h"
#include "ops/kernels.h"

namespace flux {
namespace {

void check_binary(const char* op, const Tensor& a, const Tensor& b, const Tensor& out) {
  check_rank(op, "a", a, 2);
  check_activation(op, "a", a, a.dtype());
  check_activation(op, "b", b, a.dtype(), a.shape());
  check_activation(op, "out", out, a.dtype(), a.shape());
}

}  // namespace

void activate(Context& ctx, const Tensor& x, Activation activation, const Tensor& out) {
  check_activation("activate", "x", x, x.dtype());
  check_activation("activate", "out", out, x.dtype(), x.shape());
  check_contiguous("activate", "x", x);
  check_contiguous("activate", "out", out);
  kernels_of(ctx).activate(ctx, x, activation, out);
}

void multiply(Context& ctx, const Tensor& a, const Tensor& b, const Tensor& out) {
  check_binary("multiply", a, b, out);
  kernels_of(ctx).multiply(ctx, a, b, out);
}

void add(Context& ctx, const Tensor& a, const Tensor& b, const Tensor& out) {
  check_binary("add", a, b, out);
  kernels_of(ctx).add(ctx, a, b, out);
}

}  // namespace flux
