#include "ops/cpu/cpu_backend.h"

namespace flux::cpu {

void CpuBackend::cast(Context& /*ctx*/, const Tensor& x, const Tensor& out) {
  copy_convert(x, out);
}

}  // namespace flux::cpu
