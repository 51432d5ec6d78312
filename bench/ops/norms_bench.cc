/// Speed of norms and elementwise ops at the shapes of a 768-wide transformer and of its VAE.
///
///   norms_bench [--benchmark_filter=REGEX] [--benchmark_min_time=SECONDS]
///
/// Names: op/dtype/shape/threads. `GB/s` is what must be moved, by the clock: each input and
/// output once, but a group norm's input twice, for its sums come first. Compare it with `copy`,
/// which is memcpy between two tensors too large for the caches.

#include <fmt/format.h>

#include <cstring>
#include <string>

#include "measure.h"
#include "ops/cpu/parallel.h"
#include "ops/registry.h"

namespace flux::bench {
namespace {

void report(benchmark::State& state, const ConstTensor& x, double passes,
            const std::function<void()>& call) {
  const Fastest best = fastest(state, call);
  state.counters["GB/s"] = passes * static_cast<double>(x.bytes()) / best.wall * 1e-9;
  state.counters["GB/s_cpu"] = passes * static_cast<double>(x.bytes()) / best.cpu * 1e-9;
}

using Bench = void (*)(benchmark::State& state, const Shape& shape, DType dtype, int threads);

void bench_copy(benchmark::State& state, const Shape& shape, DType dtype, int threads) {
  const Tensor x = random_tensor(shape, dtype);
  const Tensor out = to_dtype(x, dtype);
  const int64_t rows = shape[0];
  report(state, x, 2, [&] {
    cpu::parallel_for(threads, rows, [&](int64_t i) {
      const Tensor from = x[i];
      std::memcpy(out[i].raw(), from.raw(), static_cast<size_t>(from.bytes()));
    });
  });
}

void bench_group_norm(benchmark::State& state, const Shape& shape, DType dtype, int threads) {
  Context ctx(backend_for(Device{}), threads);
  const Tensor x = random_tensor(shape, dtype);
  GroupNormParams params;
  params.weight = random_tensor({shape[2]}, DType::kF32);
  params.bias = random_tensor({shape[2]}, DType::kF32);
  params.groups = 32;
  params.activation = Activation::kSilu;
  const Tensor out = Tensor::allocate(shape, dtype);
  report(state, x, 3, [&] { group_norm(ctx, x, params, out); });
}

void bench_layer_norm(benchmark::State& state, const Shape& shape, DType dtype, int threads) {
  Context ctx(backend_for(Device{}), threads);
  const Tensor x = random_tensor(shape, dtype);
  LayerNormParams params;
  params.scale = random_tensor({shape[1]}, DType::kF32);
  params.shift = random_tensor({shape[1]}, DType::kF32);
  const Tensor out = Tensor::allocate(shape, dtype);
  report(state, x, 2, [&] { layer_norm(ctx, x, params, out); });
}

void bench_rms_norm_rope(benchmark::State& state, const Shape& shape, DType dtype, int threads) {
  Context ctx(backend_for(Device{}), threads);
  const Tensor all = random_tensor({shape[0], 3 * shape[1] * shape[2]}, dtype);
  const Tensor x = all.slice(1, 0, shape[1] * shape[2]).split_last(shape[1], shape[2]);
  const Tensor weight = random_tensor({shape[2]}, DType::kF32);
  const RopeTable rope{random_tensor({shape[0], shape[2] / 2}, DType::kF32),
                       random_tensor({shape[0], shape[2] / 2}, DType::kF32)};
  report(state, x, 2, [&] { rms_norm_rope(ctx, x, weight, 1e-6f, rope); });
}

template <Activation kActivation>
void bench_activate(benchmark::State& state, const Shape& shape, DType dtype, int threads) {
  Context ctx(backend_for(Device{}), threads);
  const Tensor x = random_tensor(shape, dtype);
  const Tensor out = Tensor::allocate(shape, dtype);
  report(state, x, 2, [&] { activate(ctx, x, kActivation, out); });
}

void bench_add(benchmark::State& state, const Shape& shape, DType dtype, int threads) {
  Context ctx(backend_for(Device{}), threads);
  const Tensor x = random_tensor(shape, dtype);
  const Tensor out = Tensor::allocate(shape, dtype);
  report(state, x, 3, [&] { add(ctx, x, x, out); });
}

struct Case {
  const char* name;
  Bench bench;
  Shape shape;
};

}  // namespace
}  // namespace flux::bench

int main(int argc, char** argv) {
  using namespace flux::bench;
  using flux::Activation;
  const Case cases[] = {
      {"copy", bench_copy, {512, 512, 128}},
      {"group_norm_silu", bench_group_norm, {512, 512, 64}},
      {"group_norm_silu", bench_group_norm, {256, 256, 128}},
      {"group_norm_silu", bench_group_norm, {64, 64, 512}},
      {"layer_norm_modulated", bench_layer_norm, {1536, 768}},
      {"rms_norm_rope", bench_rms_norm_rope, {1536, 6, 128}},
      {"gelu_tanh", bench_activate<Activation::kGeluTanh>, {1536, 3072}},
      {"gelu_erf", bench_activate<Activation::kGeluErf>, {1536, 3072}},
      {"add", bench_add, {1536, 3072}},
  };
  return run_benchmarks(argc, argv, [&](flux::DType dtype, int threads) {
    for (const Case& c : cases) {
      std::string shape;
      for (int i = 0; i < c.shape.rank(); ++i) {
        shape += fmt::format("{}{}", i ? "x" : "", c.shape[i]);
      }
      const std::string name = fmt::format("{}/{}/{}/{}", c.name, name_of(dtype), shape, threads);
      benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
        c.bench(state, c.shape, dtype, threads);
      })->UseRealTime();
    }
  });
}
