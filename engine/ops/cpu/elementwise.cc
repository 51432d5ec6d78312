#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/isa.h"
#include "ops/cpu/rows.h"

namespace flux::cpu {
namespace {

template <typename T>
void binary(Context& ctx, void (*kernel)(const T*, const T*, int64_t, T*), const ConstTensor& a,
            const ConstTensor& b, const Tensor& out) {
  for_row_tiles(ctx, out.size(0), out.size(1), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      kernel(row<T>(a, i), row<T>(b, i), out.size(1), row<T>(out, i));
    }
  });
}

}  // namespace

void CpuBackend::activate(Context& ctx, const ConstTensor& x, Activation activation,
                          const Tensor& out) {
  dispatch(x.dtype(), [&]<typename T>() {
    const auto kernel = kernels().rows<T>().activate;
    for_row_tiles(ctx, x.numel(), 1, [&](int64_t begin, int64_t end, int) {
      kernel(x.data<T>() + begin, activation, end - begin, out.data<T>() + begin);
    });
  });
}

void CpuBackend::multiply(Context& ctx, const ConstTensor& a, const ConstTensor& b,
                          const Tensor& out) {
  dispatch(out.dtype(),
           [&]<typename T>() { binary<T>(ctx, kernels().rows<T>().multiply, a, b, out); });
}

void CpuBackend::add(Context& ctx, const ConstTensor& a, const ConstTensor& b, const Tensor& out) {
  dispatch(out.dtype(), [&]<typename T>() { binary<T>(ctx, kernels().rows<T>().add, a, b, out); });
}

}  // namespace flux::cpu
