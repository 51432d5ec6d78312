// Times FLUX.1's attention on a Hopper GPU, each size repeated for SECONDS, so that the GPU is at
// its power limit as in a whole image.
//   hopper_attention_bench [SECONDS]
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <vector>

#include "bench/ops/bf16_values.h"
#include "bench/ops/gpu_measure.h"
#include "ops/cuda/kernels/kernels.h"
#include "ops/cuda/state.h"
#include "ops/ops.h"

namespace flux::cuda {
namespace {

constexpr int64_t kHeads = 24;
constexpr int64_t kHeadDim = 128;
constexpr int64_t kWidth = kHeads * kHeadDim;

/// plain: with scores that are known to be small exponents of two.
void report(State& state, const Meter& meter, double seconds, int64_t tokens, int64_t count,
            bool plain) {
  const float root = std::sqrt(static_cast<float>(kHeadDim));
  const Buffer<uint16_t> qkv(count * tokens * 3 * kWidth);
  const Buffer<uint16_t> out(count * tokens * kWidth);
  fill_bf16(qkv.get(), qkv.size(), plain ? std::sqrt(kLog2E / root) : 1.0f, 1);
  check_cuda(cudaDeviceSynchronize(), "filling");
  std::vector<FlashAttention> segments;
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t* first = qkv.get() + i * tokens * 3 * kWidth;
    FlashAttention segment{};
    segment.q = first;
    segment.k = first + kWidth;
    segment.v = first + 2 * kWidth;
    segment.out = out.get() + i * tokens * kWidth;
    segment.dim = kHeadDim;
    segment.heads = kHeads;
    segment.q_tokens = segment.k_tokens = tokens;
    for (auto* strides : {&segment.q_strides, &segment.k_strides, &segment.v_strides}) {
      (*strides)[0] = 3 * kWidth;
      (*strides)[1] = kHeadDim;
    }
    segment.out_strides[0] = kWidth;
    segment.out_strides[1] = kHeadDim;
    segment.scale = plain ? AttentionOptions::kLn2 : 1.0f / root;
    if (plain) {
      segment.base = ScoreBase::kTwo;
      segment.bound = 1.02f * root;
    }
    segments.push_back(segment);
  }
  const double teraflop = 4e-12 * static_cast<double>(count * tokens * tokens * kWidth);
  const auto run = [&] {
    check_cuda(hopper_attention(segments, state.traits().multiprocessors, state.stream()),
               "hopper_attention");
  };
  measure(meter, state.stream(), seconds, teraflop, run);  // warms the GPU
  const Cost cost = measure(meter, state.stream(), seconds, teraflop, run);
  std::printf("%lld x %4lld tokens%s: %7.1f us, %3.0f TFLOP/s, %3.0f mJ\n",
              static_cast<long long>(count), static_cast<long long>(tokens), plain ? ", plain" : "",
              cost.ms * 1e3, teraflop / cost.ms * 1e3, cost.mj);
  std::fflush(stdout);
}

void run(double seconds) {
  State state(0, hopper_traits());
  const Meter meter;
  for (const bool plain : {false, true, false, true}) {
    for (const int64_t tokens : {4608, 4352, 1536, 1280, 768, 512}) {
      report(state, meter, seconds, tokens, 1, plain);
    }
    report(state, meter, seconds, 1536, 4, plain);
  }
}

}  // namespace
}  // namespace flux::cuda

int main(int argc, char** argv) {
  try {
    flux::cuda::run(argc > 1 ? std::atof(argv[1]) : 0.5);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "hopper_attention_bench: %s\n", error.what());
    return 1;
  }
  return 0;
}
