#include "ops/cpu/cpu_backend.h"

namespace flux::cpu {

// A prompt has a few hundred rows, each read once: page faults take the time, not the copy.
void CpuBackend::embedding(Context&, const ConstTensor& table, std::span<const int32_t> ids,
                           const Tensor& out) {
  for (size_t i = 0; i < ids.size(); ++i) {
    copy_convert(table[ids[i]], out[static_cast<int64_t>(i)]);
  }
}

}  // namespace flux::cpu
