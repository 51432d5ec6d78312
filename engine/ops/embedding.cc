#include "ops/checks.h"
#include "ops/kernels.h"

namespace flux {

void embedding(Context& ctx, const ConstTensor& table, std::span<const int32_t> ids,
               const Tensor& out) {
  const Context::Range range(ctx, "embedding");
  check_rank("embedding", "table", table, 2);
  check(table.defined() && (table.dtype() == DType::kF32 || table.dtype() == DType::kBF16 ||
                            table.dtype() == DType::kF16),
        ErrorCode::kInternal, "embedding: table is {}, but f32, bf16 or f16 is needed", table);
  check_activation(ctx, "embedding", "out", out, out.dtype(),
                   {static_cast<int64_t>(ids.size()), table.size(1)});
  for (size_t i = 0; i < ids.size(); ++i) {
    check(ids[i] >= 0 && ids[i] < table.size(0), ErrorCode::kInternal,
          "embedding: id {} at position {} is outside the table of {} rows", ids[i], i,
          table.size(0));
  }
  kernels_of(ctx).embedding(ctx, table, ids, out);
}

}  // namespace flux
