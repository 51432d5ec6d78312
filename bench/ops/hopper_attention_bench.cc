// Times FLUX.1's attention on a Hopper GPU, each size repeated for SECONDS, so that the GPU is at
// its power limit as in a whole image.
//   hopper_attention_bench [SECONDS [KIND [TOKENS]]]     KIND: scaled, plain or e4m3
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string_view>
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

/// Plain: with scores that are known to be small exponents of two.
enum class Kind { kScaled, kPlain, kE4M3 };
constexpr const char* kNames[] = {"scaled", "plain", "e4m3"};

/// Queries, keys and values in e4m3, one sequence after the other.
struct EncodedHeads {
  EncodedHeads(int64_t tokens, int64_t count)
      : qk(2 * count * tokens * kWidth), v(count * kWidth * encoded_keys(tokens)), v_scale(1) {
    const float scale = 5.0f / kLargestE4M3;
    check_cuda(cudaMemcpy(v_scale.get(), &scale, sizeof scale, cudaMemcpyDefault), "cudaMemcpy");
  }

  /// Puts sequence i in place of the bf16 heads of `segment`; returns how its values are encoded.
  EncodeValues encode(int64_t i, FlashAttention& segment, cudaStream_t stream) const {
    constexpr float kScale = 0.01f;
    const int64_t tokens = segment.q_tokens;
    const EncodeValues values{.x = segment.v,
                              .strides = {segment.v_strides[0], segment.v_strides[1]},
                              .tokens = tokens,
                              .heads = kHeads,
                              .dim = kHeadDim,
                              .scale = v_scale.get(),
                              .out = v.get() + i * kWidth * encoded_keys(tokens),
                              .keys = encoded_keys(tokens)};
    uint8_t* to = qk.get() + 2 * i * tokens * kWidth;
    for (const void** heads : {&segment.q, &segment.k}) {
      const EncodeHeads rows{.x = *heads,
                             .strides = {segment.q_strides[0], segment.q_strides[1]},
                             .tokens = tokens,
                             .heads = kHeads,
                             .dim = kHeadDim,
                             .scale = kScale,
                             .out = to};
      check_cuda(encode_heads(rows, stream), "encode_heads");
      *heads = to;
      to += tokens * kWidth;
    }
    check_cuda(encode_values(values, stream), "encode_values");
    segment.e4m3 = true;
    segment.bound = 20.0f;
    segment.v_scale = v_scale.get();
    segment.v = values.out;
    segment.q_strides[0] = segment.k_strides[0] = kWidth;
    segment.v_strides[0] = values.keys;
    segment.v_strides[1] = kHeadDim * values.keys;
    segment.scale *= kScale * kScale;
    return values;
  }

  Buffer<uint8_t> qk;
  Buffer<uint8_t> v;
  Buffer<float> v_scale;
};

void report(State& state, const Meter& meter, double seconds, int64_t tokens, int64_t count,
            Kind kind) {
  const bool plain = kind == Kind::kPlain;
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
  const EncodedHeads encoded(tokens, count);
  std::vector<EncodeValues> encodings;
  for (int64_t i = 0; kind == Kind::kE4M3 && i < count; ++i) {
    encodings.push_back(encoded.encode(i, segments[static_cast<size_t>(i)], state.stream()));
  }
  const double teraflop = 4e-12 * static_cast<double>(count * tokens * tokens * kWidth);
  const auto run = [&] {
    check_cuda(hopper_attention(segments, state.traits().multiprocessors, state.stream()),
               "hopper_attention");
  };
  measure(meter, state.stream(), seconds, teraflop, run);  // warms the GPU
  const Cost cost = measure(meter, state.stream(), seconds, teraflop, run);
  std::printf("%lld x %4lld tokens, %-6s: %7.1f us, %4.0f TFLOP/s, %3.0f mJ",
              static_cast<long long>(count), static_cast<long long>(tokens),
              kNames[static_cast<int>(kind)], cost.ms * 1e3, teraflop / cost.ms * 1e3, cost.mj);
  if (!encodings.empty()) {
    const Cost passes = measure(meter, state.stream(), seconds / 4, teraflop, [&] {
      for (const EncodeValues& values : encodings) {
        check_cuda(encode_values(values, state.stream()), "encode_values");
      }
    });
    std::printf(", encoding values %6.1f us", passes.ms * 1e3);
  }
  std::printf("\n");
  std::fflush(stdout);
}

void run(double seconds, std::string_view only_kind, int64_t only_tokens) {
  State state(0, hopper_traits());
  const Meter meter;
  for (int i = 0; i < 2; ++i) {
    for (const Kind kind : {Kind::kScaled, Kind::kPlain, Kind::kE4M3}) {
      if (!only_kind.empty() && only_kind != kNames[static_cast<int>(kind)]) continue;
      for (const int64_t tokens : {4608, 4352, 1536, 1280, 768, 512}) {
        if (only_tokens == 0 || only_tokens == tokens)
          report(state, meter, seconds, tokens, 1, kind);
      }
      if (only_tokens == 0) report(state, meter, seconds, 1536, 4, kind);
    }
  }
}

}  // namespace
}  // namespace flux::cuda

int main(int argc, char** argv) {
  try {
    flux::cuda::run(argc > 1 ? std::atof(argv[1]) : 0.5, argc > 2 ? argv[2] : "",
                    argc > 3 ? std::atoll(argv[3]) : 0);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "hopper_attention_bench: %s\n", error.what());
    return 1;
  }
  return 0;
}
