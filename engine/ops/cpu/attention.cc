#include <algorithm>
#include <cmath>

#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/rows.h"

namespace flux::cpu {
namespace {

template <typename T>
float dot(const T* a, const T* b, int64_t n) {
  float total = 0.0f;
  for (int64_t i = 0; i < n; ++i) total += static_cast<float>(a[i]) * static_cast<float>(b[i]);
  return total;
}

}  // namespace

void CpuBackend::attention(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                           const AttentionOptions& options, const Tensor& out) {
  dispatch(q.dtype(), [&]<typename T>() {
    const int64_t q_tokens = q.size(0);
    const int64_t k_tokens = k.size(0);
    const int64_t heads = q.size(1);
    const int64_t n = q.size(2);
    const Workspace::Scope scope(ctx.workspace());
    const Tensor scratch = ctx.workspace().allocate({ctx.threads(), k_tokens + n}, DType::kF32);
    parallel_for(ctx.threads(), q_tokens * heads, [&](int64_t task, int thread) {
      const int64_t i = task / heads;
      const int64_t head = task % heads;
      float* scores = scratch[thread].data<float>();
      float* sums = scores + k_tokens;
      const int64_t keys = options.causal ? std::min(k_tokens, i + 1) : k_tokens;
      float most = -INFINITY;
      for (int64_t j = 0; j < keys; ++j) {
        scores[j] = options.scale *
                    dot(row<T>(q, i) + head * q.stride(1), row<T>(k, j) + head * k.stride(1), n);
        if (options.relative_bias.defined()) {
          scores[j] += row<float>(options.relative_bias, head)[j - i + q_tokens - 1];
        }
        most = std::max(most, scores[j]);
      }
      float total = 0.0f;
      std::fill(sums, sums + n, 0.0f);
      for (int64_t j = 0; j < keys; ++j) {
        const float p = std::exp(scores[j] - most);
        total += p;
        const T* value = row<T>(v, j) + head * v.stride(1);
        for (int64_t c = 0; c < n; ++c) sums[c] += p * static_cast<float>(value[c]);
      }
      T* result = row<T>(out, i) + head * out.stride(1);
      for (int64_t c = 0; c < n; ++c) result[c] = T(sums[c] / total);
    });
  });
}

}  // namespace flux::cpu
