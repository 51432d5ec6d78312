#include "ops/cpu/cpu_backend.h"

namespace flux::cpu {

void CpuBackend::cast(Context& /*ctx*/, const ConstTensor& x, const Tensor& out) {
  copy_convert(x, out);
}

}  // namespace flux::cpu
