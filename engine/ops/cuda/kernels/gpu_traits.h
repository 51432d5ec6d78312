#pragma once

#include <algorithm>
#include <cstdint>

/// A GPU's own figures, and what the kernels and their callers derive from them. Where a figure was
/// tuned, it was tuned on kTunedGpu in the middle of an image; other GPUs get the same expression
/// of their own figures. None of them changes a bit of a result.
namespace flux::cuda {

/// A GPU as the driver describes it; a figure that the driver does not know is 0.
struct GpuFigures {
  int major;  // compute capability
  int minor;
  int multiprocessors;
  int64_t clock_khz;  // the highest
  int64_t memory_clock_khz;
  int64_t memory_bus_bits;
  int64_t l2_bytes;
};

struct GpuTraits {
  bool hopper = false;  // and this build has kernels for Hopper alone
  bool fp8 = false;     // its tensor cores multiply e4m3
  int multiprocessors = 1;
  double bandwidth = 1;    // bytes a second, of the memory
  double tensor_rate = 1;  // operations a second of dense bf16 products, at the highest clock
  int64_t l2_bytes = 0;
};

/// Operations of dense bf16 products, summed in f32, that a multiprocessor does a clock. Source:
/// NVIDIA's architecture white papers.
constexpr double tensor_operations(int major, int minor) {
  if (major == 9) return 4096;
  if (major == 10) return 8192;
  return major == 8 && minor == 0 ? 2048 : 1024;
}

/// H100 80GB HBM3, 700 W.
inline constexpr GpuFigures kTunedGpu{9, 0, 132, 1'980'000, 2'619'000, 5120, int64_t{50} << 20};

/// An unknown figure is taken from kTunedGpu.
constexpr GpuTraits make_gpu_traits(const GpuFigures& gpu, bool hopper) {
  const auto known = [](int64_t figure, int64_t tuned) {
    return static_cast<double>(figure > 0 ? figure : tuned);
  };
  GpuTraits traits;
  traits.hopper = hopper;
  traits.fp8 = gpu.major > 8 || (gpu.major == 8 && gpu.minor >= 9);
  traits.multiprocessors = gpu.multiprocessors > 0 ? gpu.multiprocessors : 1;
  // Two transfers a clock.
  traits.bandwidth = 2e3 * known(gpu.memory_clock_khz, kTunedGpu.memory_clock_khz) *
                     known(gpu.memory_bus_bits, kTunedGpu.memory_bus_bits) / 8;
  traits.tensor_rate = 1e3 * known(gpu.clock_khz, kTunedGpu.clock_khz) * traits.multiprocessors *
                       tensor_operations(gpu.major, gpu.minor);
  traits.l2_bytes = gpu.l2_bytes > 0 ? gpu.l2_bytes : kTunedGpu.l2_bytes;
  return traits;
}

/// The rates that linears reach in the middle of an image, the GPU at its power limit.
struct LinearRates {
  double own;      // operations a second of hopper_linear()
  double library;  // the same of cuBLASLt
  double passes;   // bytes a second of a pass over memory
};
/// As measured on kTunedGpu by bench/ops/hopper_linear_bench.cc, and in proportion to the tensor
/// cores and the memory of other GPUs. cuBLASLt is faster in deep products.
inline LinearRates linear_rates(const GpuTraits& gpu, int64_t depth) {
  constexpr GpuTraits kTuned = make_gpu_traits(kTunedGpu, true);
  const double products = gpu.tensor_rate / kTuned.tensor_rate;
  const double memory = gpu.bandwidth / kTuned.bandwidth;
  return {690e12 * products, (depth > 8192 ? 700e12 : 650e12) * products, 2.5e12 * memory};
}

/// Rows of x that a band of tiles may have, so that the L2 cache keeps them while the columns
/// change: 27 % of it (a half serves one half of the GPU, and weights and results pass through it
/// meanwhile) for rows of 3072 bf16, the depth of most of FLUX's linears. 2304 on kTunedGpu.
inline int64_t band_rows(const GpuTraits& gpu) {
  constexpr int64_t kRowBytes = 3072 * 2;
  return std::max<int64_t>(1, gpu.l2_bytes * 27 / 100 / kRowBytes);
}

/// Up to how many bytes x is kept in the L2 cache at the expense of weights: 64 % of it, so that
/// the weights of a few columns and the results still fit beside x. 32 MiB on kTunedGpu.
inline int64_t kept_bytes(const GpuTraits& gpu) { return gpu.l2_bytes * 64 / 100; }

/// Blocks of the norm that keeps its columns' parameters: five a multiprocessor are at work at a
/// time, and more would only read the parameters again. 660 on kTunedGpu.
inline int64_t norm_blocks(const GpuTraits& gpu) { return int64_t{5} * gpu.multiprocessors; }

/// Rows from which on products run at full speed, so that more at once would only take memory: 64 a
/// multiprocessor give the narrowest of FLUX's linears, 3072 columns in tiles of 128 x 256, six
/// waves, of which a partial last one loses little. Whole thousands, as images have. 8192 on
/// kTunedGpu.
inline int64_t useful_rows(const GpuTraits& gpu) {
  constexpr int64_t kStep = 1024;
  return std::max<int64_t>(1, 64 * int64_t{gpu.multiprocessors} / kStep) * kStep;
}

}  // namespace flux::cuda
