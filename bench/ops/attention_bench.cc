/// Speed of attention at the shapes of a 768-wide transformer, of the text encoders and of the
/// VAE's middle block.
///
///   attention_bench [--benchmark_filter=REGEX] [--benchmark_min_time=SECONDS]
///
/// Names: attention/dtype/tokens x heads x head_dim/threads. `GFLOP/s` counts 4 tokens^2 heads
/// head_dim by the clock, `GFLOP/s_cpu` by the processor time of the calling thread, which is the
/// better figure with one thread on a machine shared with others.

#include <fmt/format.h>

#include <cmath>
#include <string>

#include "measure.h"
#include "ops/registry.h"

namespace flux::bench {
namespace {

struct AttentionShape {
  const char* name;
  int64_t tokens;
  int64_t heads;
  int64_t head_dim;
  bool causal;
  bool relative_bias;
};

constexpr AttentionShape kShapes[] = {
    {"dit", 768, 6, 128, false, false},  {"dit", 1536, 6, 128, false, false},
    {"vae", 1024, 1, 128, false, false}, {"vae", 4096, 1, 128, false, false},
    {"vae", 1024, 1, 512, false, false}, {"clip", 77, 12, 64, true, false},
    {"t5", 512, 6, 64, false, true},
};

void bench_attention(benchmark::State& state, const AttentionShape& shape, DType dtype,
                     int threads) {
  Context ctx(backend_for(Device{}), threads);
  const int64_t width = shape.heads * shape.head_dim;
  const Tensor all = random_tensor({shape.tokens, 3 * width}, dtype);
  const auto part = [&](int64_t i) {
    return all.slice(1, i * width, (i + 1) * width).split_last(shape.heads, shape.head_dim);
  };
  const Tensor out = Tensor::allocate({shape.tokens, shape.heads, shape.head_dim}, dtype);
  AttentionOptions options;
  options.scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  options.causal = shape.causal;
  if (shape.relative_bias) {
    options.relative_bias = random_tensor({shape.heads, 2 * shape.tokens - 1}, DType::kF32);
  }
  const Fastest best =
      fastest(state, [&] { attention(ctx, part(0), part(1), part(2), options, out); });
  const auto flops = 4.0 * static_cast<double>(shape.tokens * shape.tokens * width);
  state.counters["GFLOP/s"] = flops / best.wall * 1e-9;
  state.counters["GFLOP/s_cpu"] = flops / best.cpu * 1e-9;
}

}  // namespace
}  // namespace flux::bench

int main(int argc, char** argv) {
  using namespace flux::bench;
  return run_benchmarks(argc, argv, [](flux::DType dtype, int threads) {
    for (const AttentionShape& shape : kShapes) {
      const std::string name =
          fmt::format("attention/{}/{}_{}x{}x{}/{}", name_of(dtype), shape.name, shape.tokens,
                      shape.heads, shape.head_dim, threads);
      benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
        bench_attention(state, shape, dtype, threads);
      })->UseRealTime();
    }
  });
}
