#pragma once

#include <algorithm>

#include "ops/cpu/parallel.h"
#include "runtime/context.h"
#include "support/integer.h"

/// Helpers that walk over the rows of activations.
namespace flux::cpu {

/// Calls f.operator()<T>() with the element type of activations of `dtype`.
template <typename F>
void dispatch(DType dtype, const F& f) {
  if (dtype == DType::kBF16) {
    f.template operator()<BFloat16>();
  } else {
    f.template operator()<float>();
  }
}

/// Address of row i of a tensor: index i of its first dimension.
template <typename T, typename AnyTensor>
auto* row(const AnyTensor& tensor, int64_t i) {
  return tensor.template data<T>() + i * tensor.stride(0);
}

/// Calls f(begin, end, thread) for tiles of rows of n elements, in parallel where it pays. The
/// tiles depend on the shape alone.
template <typename F>
void for_row_tiles(Context& ctx, int64_t rows, int64_t n, const F& f) {
  constexpr int64_t kTileElements = 32768;  // some 10 us of work, well above the cost of a task
  const int64_t tile = std::max<int64_t>(1, kTileElements / std::max<int64_t>(1, n));
  parallel_for(ctx.threads(), ceil_div(rows, tile), [&](int64_t task, int thread) {
    f(task * tile, std::min(rows, (task + 1) * tile), thread);
  });
}

}  // namespace flux::cpu
