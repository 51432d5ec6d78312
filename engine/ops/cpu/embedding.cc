#include "ops/cpu/cpu_backend.h"

namespace flux::cpu {

// A prompt has a few hundred rows, each read once: page faults take the time, not the copy.
void CpuBackend::embedding(Context&, const StoredTensor& table, std::span<const int32_t> ids,
                           const Tensor& out) {
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto row = static_cast<int64_t>(i);
    decode_rows(table, ids[i], ids[i] + 1, out.slice(0, row, row + 1));
  }
}

}  // namespace flux::cpu
