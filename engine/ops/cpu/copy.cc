#include <cstring>

#include "ops/cpu/cpu_backend.h"

namespace flux::cpu {
namespace {

template <typename From, typename To>
void transpose_rows(const ConstTensor& x, const Tensor& out) {
  const int64_t rows = x.size(0);
  const int64_t columns = x.size(1);
  const auto* from = x.data<From>();
  auto* to = out.data<To>();
  for (int64_t j = 0; j < columns; ++j) {
    for (int64_t i = 0; i < rows; ++i) {
      const From value = from[i * columns + j];
      if constexpr (std::is_same_v<From, To>) {
        to[j * rows + i] = value;
      } else {
        to[j * rows + i] = static_cast<To>(value);
      }
    }
  }
}

}  // namespace

void CpuBackend::copy(Context&, const ConstTensor& x, const Tensor& out) {
  std::memcpy(out.raw(), x.raw(), static_cast<size_t>(x.bytes()));
}

void CpuBackend::transpose(Context&, const ConstTensor& x, const Tensor& out) {
  if (x.dtype() == DType::kF32) {
    transpose_rows<float, float>(x, out);
  } else if (out.dtype() == DType::kF32) {
    transpose_rows<BFloat16, float>(x, out);
  } else {
    transpose_rows<BFloat16, BFloat16>(x, out);
  }
}

}  // namespace flux::cpu
