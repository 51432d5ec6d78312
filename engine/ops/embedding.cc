#include "ops/checks.h"
#include "ops/kernels.h"

namespace flux {

void embedding(Context& ctx, const StoredTensor& table, std::span<const int32_t> ids,
               const Tensor& out) {
  const Context::Range range(ctx, "embedding");
  if (table.is_plain()) check_rank("embedding", "table", table.data, 2);
  const DType dtype = table.data.dtype();
  check(table.defined() && table.shape.rank() == 2 &&
            (!table.is_plain() || dtype == DType::kF32 || dtype == DType::kBF16 ||
             dtype == DType::kF16),
        ErrorCode::kInternal,
        "embedding: table is {}{}, but f32, bf16, f16 or an encoding is needed", table.type_name(),
        table.shape);
  check_activation(ctx, "embedding", "out", out, out.dtype(),
                   {static_cast<int64_t>(ids.size()), table.shape[1]});
  for (size_t i = 0; i < ids.size(); ++i) {
    check(ids[i] >= 0 && ids[i] < table.shape[0], ErrorCode::kInternal,
          "embedding: id {} at position {} is outside the table of {} rows", ids[i], i,
          table.shape[0]);
  }
  kernels_of(ctx).embedding(ctx, table, ids, out);
}

}  // namespace flux
