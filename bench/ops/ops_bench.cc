/// Speed of linear and conv2d at the shapes of a 768-wide transformer and of its VAE.
///
///   ops_bench [--benchmark_filter=REGEX] [--benchmark_min_time=SECONDS]
///
/// Names: op/dtype/shape/threads; `stored` is a linear whose weights stay encoded, with bf16 rows,
/// and
/// `_exact` decodes them instead of multiplying as int8. The counters are of the fastest iteration,
/// so that a machine shared with others still gives the speed of the code: `GFLOP/s` of useful
/// arithmetic by the clock, and `GFLOP/s_cpu` by the processor time of the calling thread, which is
/// the better figure with one thread. `GB/s` is the weights' bytes by the clock.

#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <random>
#include <string>

#include "ops/cpu/isa.h"
#include "ops/registry.h"
#include "support/default_threads.h"

namespace flux {
namespace {

Tensor random_tensor(const Shape& shape, DType dtype) {
  const Tensor values = Tensor::allocate(shape, DType::kF32);
  std::mt19937 generator(1);
  std::uniform_real_distribution<float> uniform(-0.1f, 0.1f);
  for (int64_t i = 0; i < values.numel(); ++i) values.data<float>()[i] = uniform(generator);
  return to_dtype(values, dtype);
}

double thread_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double wall_seconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

/// Runs `call` and reports the fastest iteration.
void measure(benchmark::State& state, double flops, int64_t weight_bytes,
             const std::function<void()>& call) {
  call();  // compiles kernels, sizes the workspace
  double wall = 1e9;
  double cpu = 1e9;
  for (auto iteration : state) {
    const double wall_begin = wall_seconds();
    const double cpu_begin = thread_seconds();
    call();
    cpu = std::min(cpu, thread_seconds() - cpu_begin);
    wall = std::min(wall, wall_seconds() - wall_begin);
  }
  state.counters["ms"] = wall * 1e3;
  state.counters["GFLOP/s"] = flops / wall * 1e-9;
  state.counters["GFLOP/s_cpu"] = flops / cpu * 1e-9;
  state.counters["GB/s"] = static_cast<double>(weight_bytes) / wall * 1e-9;
}

struct LinearShape {
  int64_t rows;
  int64_t in;
  int64_t out;
  Activation activation;
  bool gate_and_residual;
};

void bench_linear(benchmark::State& state, const LinearShape& shape, DType dtype, int threads) {
  Context ctx(backend_for(Device{}), threads);
  const StoredTensor weight = random_tensor({shape.out, shape.in}, dtype);
  const ConstTensor bias = random_tensor({shape.out}, DType::kF32);
  const LinearWeights weights = pack_linear(ctx, {&weight, 1}, {&bias, 1}, dtype);
  const Tensor x = random_tensor({shape.rows, shape.in}, dtype);
  const Tensor out = Tensor::allocate({shape.rows, shape.out}, dtype);
  Epilogue epilogue;
  epilogue.activation = shape.activation;
  if (shape.gate_and_residual) {
    epilogue.gate = random_tensor({shape.out}, DType::kF32);
    epilogue.residual = random_tensor({shape.rows, shape.out}, dtype);
  }
  const auto flops = 2.0 * static_cast<double>(shape.rows * shape.in * shape.out);
  measure(state, flops, weights.packed->bytes(), [&] { linear(ctx, x, weights, epilogue, out); });
}

/// Blocks of random bytes, with a half of 0.01 at both ends: where kStoredEncodings have scales.
StoredTensor random_stored(Encoding encoding, int64_t rows, int64_t columns) {
  const EncodingInfo& info = info_of(encoding);
  const Tensor bytes =
      Tensor::allocate({rows, columns / info.block_values * info.block_bytes}, DType::kU8);
  std::minstd_rand generator(1);
  auto* data = bytes.data<uint8_t>();
  for (int64_t i = 0; i < bytes.numel(); ++i) data[i] = static_cast<uint8_t>(generator() >> 8);
  const Float16 scale(0.01f);
  for (int64_t i = 0; i < bytes.numel(); i += info.block_bytes) {
    for (const int64_t at : {int64_t{0}, int64_t{2}, info.block_bytes - 2}) {
      std::memcpy(data + i + at, &scale.bits, sizeof(scale.bits));
    }
  }
  return StoredTensor(encoding, {rows, columns}, bytes);
}

void bench_stored(benchmark::State& state, const LinearShape& shape, Encoding encoding, bool exact,
                  int threads) {
  // Up to this instruction set there are no dot products of int8.
  if (exact) cpu::use_isa(std::min(cpu::best_isa(), cpu::Isa::kAvx512));
  Context ctx(backend_for(Device{}), threads);
  const StoredTensor weight = random_stored(encoding, shape.out, shape.in);
  const LinearWeights weights = pack_linear(ctx, {&weight, 1}, {}, DType::kBF16);
  const Tensor x = random_tensor({shape.rows, shape.in}, DType::kBF16);
  const Tensor out = Tensor::allocate({shape.rows, shape.out}, DType::kBF16);
  const auto flops = 2.0 * static_cast<double>(shape.rows * shape.in * shape.out);
  measure(state, flops, weight.bytes(), [&] { linear(ctx, x, weights, {}, out); });
  cpu::use_isa(cpu::best_isa());
}

struct ConvShape {
  int64_t size;  // height and width of the input
  int64_t in;
  int64_t out;
  ConvSize kind = ConvSize::kSame;
};

void bench_conv(benchmark::State& state, const ConvShape& shape, DType dtype, int threads) {
  Context ctx(backend_for(Device{}), threads);
  const ConstTensor weight = random_tensor({shape.out, shape.in, 3, 3}, dtype);
  const Conv2dWeights weights =
      pack_conv2d(ctx, weight, random_tensor({shape.out}, DType::kF32), dtype, shape.kind);
  const int64_t out_size = conv_side(shape.kind, shape.size);
  const Tensor x = random_tensor({shape.size, shape.size, shape.in}, dtype);
  const Tensor out = Tensor::allocate({out_size, out_size, shape.out}, dtype);
  Tensor residual;
  if (shape.kind == ConvSize::kSame) residual = random_tensor(out.shape(), dtype);
  // The plain convolution's arithmetic, also where taps are summed beforehand.
  const auto flops = 18.0 * static_cast<double>(out.numel() * shape.in);
  measure(state, flops, weights.packed->bytes(), [&] { conv2d(ctx, x, weights, residual, out); });
}

void bench_pack(benchmark::State& state, DType dtype, int threads) {
  Context ctx(backend_for(Device{}), threads);
  const StoredTensor weight = random_tensor({3072, 768}, dtype);
  measure(state, 0.0, weight.bytes(), [&] {
    benchmark::DoNotOptimize(pack_linear(ctx, {&weight, 1}, {}, dtype));
  });
}

constexpr LinearShape kLinearShapes[] = {
    {1536, 768, 2304, Activation::kNone, false}, {1536, 768, 3072, Activation::kGeluTanh, false},
    {1536, 3072, 768, Activation::kNone, true},  {1536, 3840, 768, Activation::kNone, true},
    {768, 768, 2304, Activation::kNone, false},  {768, 768, 3072, Activation::kGeluTanh, false},
    {768, 3072, 768, Activation::kNone, true},   {768, 3840, 768, Activation::kNone, true},
    {256, 768, 768, Activation::kNone, true},    {77, 768, 768, Activation::kNone, true},
    {1, 768, 18432, Activation::kNone, false},
};

// FLUX.1's largest linears with 512x512 and 256 tokens of text, and the modulation of a block.
constexpr LinearShape kStoredShapes[] = {
    {1280, 3072, 21504, Activation::kNone, false},
    {1280, 15360, 3072, Activation::kNone, false},
    {1, 3072, 18432, Activation::kNone, false},
};
constexpr Encoding kStoredEncodings[] = {Encoding::kQ4_0, Encoding::kQ8_0, Encoding::kQ4K,
                                         Encoding::kQ6K};

constexpr ConvShape kConvShapes[] = {
    {512, 64, 64},
    {256, 128, 128},
    {128, 128, 128},
    {64, 128, 128},
    {64, 512, 512},
    {256, 128, 64},
    {64, 16, 128},
    {512, 64, 3},
    {256, 64, 64, ConvSize::kDoubled},
    {128, 128, 128, ConvSize::kDoubled},
    {64, 128, 128, ConvSize::kDoubled},
    {512, 128, 128, ConvSize::kHalved},
};

void register_stored(int threads) {
  for (const Encoding encoding : kStoredEncodings) {
    for (const LinearShape& shape : kStoredShapes) {
      for (const bool exact : {false, true}) {
        const std::string name =
            fmt::format("stored/{}/{}x{}x{}{}/{}", info_of(encoding).name, shape.rows, shape.in,
                        shape.out, exact ? "_exact" : "", threads);
        benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
          bench_stored(state, shape, encoding, exact, threads);
        })->UseRealTime();
      }
    }
  }
}

void register_all(DType dtype, int threads) {
  const std::string suffix = fmt::format("/{}", threads);
  const std::string type(name_of(dtype));
  for (const LinearShape& shape : kLinearShapes) {
    const std::string name =
        fmt::format("linear/{}/{}x{}x{}{}{}{}", type, shape.rows, shape.in, shape.out,
                    shape.activation == Activation::kNone ? "" : "_gelu",
                    shape.gate_and_residual ? "_gate_residual" : "", suffix);
    benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
      bench_linear(state, shape, dtype, threads);
    })->UseRealTime();
  }
  for (const ConvShape& shape : kConvShapes) {
    const std::string name =
        fmt::format("conv/{}/{}x{}x{}to{}{}{}", type, shape.size, shape.size, shape.in, shape.out,
                    shape.kind == ConvSize::kDoubled  ? "_up"
                    : shape.kind == ConvSize::kHalved ? "_down"
                                                      : "",
                    suffix);
    benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
      bench_conv(state, shape, dtype, threads);
    })->UseRealTime();
  }
  benchmark::RegisterBenchmark(fmt::format("pack/{}/768x3072{}", type, suffix).c_str(),
                               [=](benchmark::State& state) { bench_pack(state, dtype, threads); })
      ->UseRealTime();
}

}  // namespace
}  // namespace flux

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  for (const flux::DType dtype : {flux::DType::kF32, flux::DType::kBF16}) {
    flux::register_all(dtype, 1);
    if (flux::default_threads() > 1) flux::register_all(dtype, flux::default_threads());
  }
  flux::register_stored(1);
  if (flux::default_threads() > 1) flux::register_stored(flux::default_threads());
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
