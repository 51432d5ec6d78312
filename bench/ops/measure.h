#pragma once

#include <benchmark/benchmark.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <random>

#include "ops/kernels.h"
#include "support/default_threads.h"

/// What the benchmarks of ops share. Counters are of the fastest iteration, so that a machine
/// shared with others still gives the speed of the code.
namespace flux::bench {

inline Tensor random_tensor(const Shape& shape, DType dtype) {
  const Tensor values = Tensor::allocate(shape, DType::kF32);
  std::mt19937 generator(1);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  for (int64_t i = 0; i < values.numel(); ++i) values.data<float>()[i] = uniform(generator);
  return to_dtype(values, dtype);
}

inline double thread_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

inline double wall_seconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

/// Seconds of the fastest iteration: by the clock, and processor time of the calling thread.
struct Fastest {
  double wall = 1e9;
  double cpu = 1e9;
};

/// Runs `call` once to size the workspace, then as often as `state` asks for.
inline Fastest fastest(benchmark::State& state, const std::function<void()>& call) {
  call();
  Fastest best;
  for (auto iteration : state) {
    const double wall_begin = wall_seconds();
    const double cpu_begin = thread_seconds();
    call();
    best.cpu = std::min(best.cpu, thread_seconds() - cpu_begin);
    best.wall = std::min(best.wall, wall_seconds() - wall_begin);
  }
  state.counters["ms"] = best.wall * 1e3;
  return best;
}

/// Calls f(dtype, threads) for one thread and for all, in both dtypes; then runs what it
/// registered. The body of a benchmark's main().
template <typename F>
int run_benchmarks(int argc, char** argv, const F& f) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    f(dtype, 1);
    if (default_threads() > 1) f(dtype, default_threads());
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace flux::bench
