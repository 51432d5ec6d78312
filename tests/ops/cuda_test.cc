// Every op on the GPU against the CPU's, which has tests of its own. Skipped without a GPU.
#include <limits>

#include "ops/cuda_ops.h"
#include "ops/registry.h"

namespace flux {
namespace {

/// With many heads Hopper's kernel has more to share out than there are multiprocessors.
TEST_P(CudaOps, PartsOfAnAttentionAreTheSameAlone) {
  constexpr int64_t kDim = 128;
  for (const int64_t heads : {3, 22, 24}) {
    std::vector<AttentionPart> parts;
    std::vector<Tensor> alone;
    AttentionOptions options;
    options.scale = 0.09f;
    for (const int64_t tokens : {1, 100, 128, 300, 1000, 520}) {
      const Tensor qkv = random({tokens, 3 * heads, kDim}).gpu;
      const int64_t first = tokens / 3;  // the first rows only count as keys
      const AttentionPart part{qkv.slice(0, first, tokens).slice(1, 0, heads),
                               qkv.slice(1, heads, 2 * heads), qkv.slice(1, 2 * heads, 3 * heads),
                               random({tokens - first, heads, kDim}).gpu};
      alone.push_back(random({tokens - first, heads, kDim}).gpu);
      attention(*gpu_, part.q, part.k, part.v, options, alone.back());
      parts.push_back(part);
    }
    attention(*gpu_, parts, options);
    for (size_t i = 0; i < parts.size(); ++i) {
      EXPECT_TRUE(same_bytes(*gpu_, parts[i].out, alone[i])) << heads << " heads, part " << i;
    }
  }
}

struct ConvCase {
  int64_t height, width, in, out, kernel;
  ConvSize size = ConvSize::kSame;
};
constexpr ConvCase kConvCases[] = {{5, 7, 3, 4, 3},
                                   {8, 6, 16, 24, 3, ConvSize::kDoubled},
                                   {9, 6, 32, 32, 1},
                                   {16, 19, 64, 128, 3},
                                   {33, 20, 128, 64, 3, ConvSize::kDoubled},
                                   {40, 24, 128, 3, 3},
                                   {24, 40, 16, 512, 3},
                                   {8, 6, 3, 4, 3, ConvSize::kHalved},
                                   {34, 18, 16, 24, 3, ConvSize::kHalved},
                                   {32, 48, 128, 128, 3, ConvSize::kHalved}};

TEST_P(CudaOps, Convolution) {
  for (const ConvCase& c : kConvCases) {
    const float spread = 1.0f / std::sqrt(static_cast<float>(c.in * c.kernel * c.kernel));
    const Twin weight = random({c.out, c.in, c.kernel, c.kernel}, dtype(), 0.0f, spread);
    const Twin bias = random({c.out}, DType::kF32);
    const Twin x = random({c.height, c.width, c.in});
    for (const bool residual : {false, true}) {
      const Twin out = random({conv_side(c.size, c.height), conv_side(c.size, c.width), c.out});
      const auto run = [&](Context& ctx, const ConstTensor& from, const Tensor& to) {
        const auto weights = pack_conv2d(ctx, weight.cpu, bias.cpu, dtype(), c.size);
        conv2d(ctx, from, weights, residual ? to : Tensor(), to);
      };
      run(*cpu_, x.cpu, out.cpu);
      run(*gpu_, x.gpu, out.gpu);
      expect_same(
          out, fmt::format("{}x{} {} to {} kernel {} size {} residual {}", c.height, c.width, c.in,
                           c.out, c.kernel, static_cast<int>(c.size), residual));
    }
  }
}

TEST_P(CudaOps, Norms) {
  for (const int64_t n : {1, 5, 64, 768, 3072, 9001}) {
    for (const int64_t gap : {0, 3}) {
      const std::string name = fmt::format("{} columns, gap {}", n, gap);
      const Twin x = random({19, n + gap}, dtype(), 3.0f, 2.0f).slice(1, 0, n);
      const Twin a = random({n}, DType::kF32);
      const Twin b = random({n}, DType::kF32);
      const Twin out = rows(19, n, gap);
      layer_norm(*cpu_, x.cpu, {a.cpu, b.cpu, {}, {}, 1e-5f}, out.cpu);
      layer_norm(*gpu_, x.gpu, {a.gpu, b.gpu, {}, {}, 1e-5f}, out.gpu);
      expect_same(out, "layer norm of " + name);
      rms_norm(*cpu_, x.cpu, a.cpu, 1e-6f, out.cpu);
      rms_norm(*gpu_, x.gpu, a.gpu, 1e-6f, out.gpu);
      expect_same(out, "RMS norm of " + name);
      layer_norm(*cpu_, x.cpu, {{}, {}, a.cpu, b.cpu, 1e-6f}, x.cpu);
      layer_norm(*gpu_, x.gpu, {{}, {}, a.gpu, b.gpu, 1e-6f}, x.gpu);
      expect_same(x, "modulated layer norm in place of " + name);
    }
  }
}

TEST_P(CudaOps, PartsOfALayerNormAreTheSameAlone) {
  for (const int64_t n : {65, 768, 3072, 4096}) {
    std::vector<Twin> outs;
    std::vector<LayerNormPart> parts;
    for (int64_t i = 0; i < 18; ++i) {  // more than are computed at once
      const int64_t count = i % 3 == 0 ? 700 : i % 4;
      const Twin x = random({count, n}, dtype(), 3.0f, 2.0f);
      const Twin scale = random({n}, DType::kF32);
      const Twin shift = random({n}, DType::kF32);
      outs.push_back(random({count, n}));
      parts.push_back({x.gpu, {{}, {}, scale.gpu, shift.gpu, 1e-6f}, outs.back().gpu});
      layer_norm(*cpu_, x.cpu, {{}, {}, scale.cpu, shift.cpu, 1e-6f}, outs.back().cpu);
    }
    layer_norm(*gpu_, parts);
    for (const auto& [x, params, out, scales] : parts) {
      const Tensor alone = random({x.size(0), n}).gpu;
      layer_norm(*gpu_, x, params, alone);
      EXPECT_TRUE(same_bytes(*gpu_, alone, out)) << n << " columns";
    }
    for (const Twin& out : outs) expect_same(out, fmt::format("{} columns", n));
  }
}

TEST_P(CudaOps, NormAndRotation) {
  for (const int64_t dim : {2, 16, 64, 128, 250}) {
    for (const int64_t gap : {0, 3, 8}) {
      const int64_t heads = 3;
      const Twin x = rows(21, heads * dim, gap).split_last(heads, dim);
      const Twin weight = random({dim}, DType::kF32);
      const Twin cos = random({21, dim / 2}, DType::kF32);
      const Twin sin = random({21, dim / 2}, DType::kF32);
      rms_norm_rope(*cpu_, x.cpu, weight.cpu, 1e-6f, {cos.cpu, sin.cpu});
      rms_norm_rope(*gpu_, x.gpu, weight.gpu, 1e-6f, {cos.gpu, sin.gpu});
      expect_same(x, fmt::format("heads of {}, gap {}", dim, gap));
    }
  }
}

TEST_P(CudaOps, RotaryAngles) {
  const Twin positions = random({50, 3}, DType::kF32, 0.0f, 40.0f);
  const std::vector<int64_t> axes = {16, 56, 56};
  const Twin cos = random({50, 64}, DType::kF32);
  const Twin sin = random({50, 64}, DType::kF32);
  for (const double theta : {10000.0, 2000.0}) {
    rope_angles(*cpu_, positions.cpu, {axes, theta}, cos.cpu, sin.cpu);
    rope_angles(*gpu_, positions.gpu, {axes, theta}, cos.gpu, sin.gpu);
    expect_same(cos, fmt::format("cos, theta {}", theta));
    expect_same(sin, fmt::format("sin, theta {}", theta));
  }
}

struct AttentionCase {
  int64_t q, k, heads, dim;
};
constexpr AttentionCase kAttentionCases[] = {
    {1, 1, 1, 8},       {7, 5, 3, 20},     {77, 77, 2, 64},    {100, 257, 1, 9},
    {33, 130, 2, 16},   {50, 600, 1, 128}, {300, 300, 3, 128}, {13, 40, 1, 512},
    {129, 64, 2, 64},   {512, 512, 4, 64}, {257, 385, 2, 128}, {640, 1024, 2, 128},
    {700, 520, 24, 128}};

TEST_P(CudaOps, Attention) {
  for (const AttentionCase& c : kAttentionCases) {
    const int64_t width = c.heads * c.dim;
    const Twin qkv = rows(std::max(c.q, c.k), 3 * width, 0);
    const Twin q = qkv.slice(1, 0, width).slice(0, 0, c.q).split_last(c.heads, c.dim);
    const Twin k = qkv.slice(1, width, 2 * width).slice(0, 0, c.k).split_last(c.heads, c.dim);
    const Twin v = qkv.slice(1, 2 * width, 3 * width).slice(0, 0, c.k).split_last(c.heads, c.dim);
    const Twin bias = random({c.heads, c.q + c.k - 1}, DType::kF32, 0.0f, 2.0f);
    for (const bool causal : {false, true}) {
      for (const bool biased : {false, true}) {
        const Twin out = rows(c.q, width, 8).split_last(c.heads, c.dim);
        AttentionOptions options;
        options.scale = 1.0f / std::sqrt(static_cast<float>(c.dim));
        options.causal = causal;
        if (biased) options.relative_bias = bias.cpu;
        attention(*cpu_, q.cpu, k.cpu, v.cpu, options, out.cpu);
        if (biased) options.relative_bias = bias.gpu;
        attention(*gpu_, q.gpu, k.gpu, v.gpu, options, out.gpu);
        expect_same(out, fmt::format("{} x {} of {} heads of {}, causal {}, bias {}", c.q, c.k,
                                     c.heads, c.dim, causal, biased));
      }
    }
  }
}

TEST_P(CudaOps, AttentionOfLargeScores) {
  const Twin q = random({65, 2, 128}, dtype(), 0.0f, 40.0f);
  const Twin k = random({300, 2, 128}, dtype(), 0.0f, 40.0f);
  const Twin v = random({300, 2, 128});
  const Twin out = random({65, 2, 128});
  attention(*cpu_, q.cpu, k.cpu, v.cpu, {}, out.cpu);
  attention(*gpu_, q.gpu, k.gpu, v.gpu, {}, out.gpu);
  expect_same(out, "scores of 1e4");
}

TEST_P(CudaOps, AttentionOfScoresKnownToBeSmall) {
  // Rows whose largest scores are far above zero, about it, and far below it.
  for (const float mean : {2.0f, 0.0f, -2.0f}) {
    const Twin q = random({300, 2, 128}, dtype(), 0.17f, 0.085f);
    const Twin k = random({520, 2, 128}, dtype(), mean, 0.5f);
    const Twin v = random({520, 2, 128});
    const Twin out = random({300, 2, 128});
    AttentionOptions options;
    options.base = ScoreBase::kTwo;
    options.bound = 59.0f;
    attention(*cpu_, q.cpu, k.cpu, v.cpu, options, out.cpu);
    attention(*gpu_, q.gpu, k.gpu, v.gpu, options, out.gpu);
    expect_same(out, fmt::format("keys about {}", mean));
  }
}

TEST_P(CudaOps, GroupNorm) {
  struct Case {
    int64_t pixels, channels, groups;
  };
  for (const Case& c : {Case{1, 4, 2}, Case{130, 6, 3}, Case{1000, 128, 32}, Case{777, 512, 32},
                        Case{300, 24, 1}, Case{5, 1024, 1}, Case{1300, 96, 8}}) {
    for (const Activation activation : {Activation::kNone, Activation::kSilu}) {
      const Twin x = random({c.pixels, c.channels}, dtype(), 20.0f, 2.0f);
      const Twin weight = random({c.channels}, DType::kF32);
      const Twin bias = random({c.channels}, DType::kF32);
      const Twin out = random({c.pixels, c.channels});
      group_norm(*cpu_, x.cpu, {weight.cpu, bias.cpu, c.groups, 1e-6f, activation}, out.cpu);
      group_norm(*gpu_, x.gpu, {weight.gpu, bias.gpu, c.groups, 1e-6f, activation}, out.gpu);
      expect_same(out, fmt::format("{} x {} in {} groups", c.pixels, c.channels, c.groups));
    }
  }
}

TEST_P(CudaOps, Elementwise) {
  for (const int64_t n : {1, 7, 64, 1000}) {
    for (const int64_t gap : {0, 1, 8}) {
      const Twin a = rows(13, n, gap);
      const Twin b = rows(13, n, gap);
      const Twin out = rows(13, n, gap);
      multiply(*cpu_, a.cpu, b.cpu, out.cpu);
      multiply(*gpu_, a.gpu, b.gpu, out.gpu);
      expect_same(out, "multiply");
      add(*cpu_, a.cpu, b.cpu, a.cpu);
      add(*gpu_, a.gpu, b.gpu, a.gpu);
      expect_same(a, "add");
      const Twin wide = random({13, n}, DType::kF32);
      cast(*cpu_, a.cpu, wide.cpu);
      cast(*gpu_, a.gpu, wide.gpu);
      expect_same(wide, "cast");
    }
  }
  for (const Activation activation :
       {Activation::kNone, Activation::kGeluTanh, Activation::kGeluErf, Activation::kQuickGelu,
        Activation::kSilu, Activation::kRelu}) {
    const Twin x = random({1001}, dtype(), 0.0f, 4.0f);
    activate(*cpu_, x.cpu, activation, x.cpu);
    activate(*gpu_, x.gpu, activation, x.gpu);
    expect_same(x, fmt::format("activation {}", static_cast<int>(activation)));
  }
}

TEST_P(CudaOps, TransposeAndEmbedding) {
  const Twin x = random({37, 65});
  for (const DType type : {dtype(), DType::kF32}) {
    const Twin out = random({65, 37}, type);
    transpose(*cpu_, x.cpu, out.cpu);
    transpose(*gpu_, x.gpu, out.gpu);
    expect_same(out, "transpose");
  }
  const std::vector<int32_t> ids = {3, 0, 36, 3};
  const Twin picked = random({4, 65});
  embedding(*cpu_, x.cpu, ids, picked.cpu);
  embedding(*gpu_, x.cpu, ids, picked.gpu);
  expect_same(picked, "embedding");
}

/// What an image is made of between the stages must not differ by a bit.
TEST_P(CudaOps, LatentsAreTheSameBytes) {
  const auto expect_equal = [&](const Twin& twin, const char* what) {
    const ConstTensor found = to_host(*gpu_, twin.gpu);
    EXPECT_EQ(std::memcmp(found.raw(), twin.cpu.raw(), static_cast<size_t>(found.bytes())), 0)
        << what;
  };
  const Twin latents = random({24, 64});
  const Twin prediction = random({24, 64});
  const Twin negative = random({24, 64});
  euler_step(*cpu_, latents.cpu, {-0.037f, prediction.cpu, {}, 1.0f});
  euler_step(*gpu_, latents.gpu, {-0.037f, prediction.gpu, {}, 1.0f});
  expect_equal(latents, "a step");
  euler_step(*cpu_, latents.cpu, {-0.11f, prediction.cpu, negative.cpu, 3.7f});
  euler_step(*gpu_, latents.gpu, {-0.11f, prediction.gpu, negative.gpu, 3.7f});
  expect_equal(latents, "a step with true guidance");
  const Twin noise = random({24, 64});
  const Twin mask = random({24, 64});
  for (int64_t i = 0; i < mask.cpu.numel(); i += 2) {
    std::memset(static_cast<std::byte*>(mask.cpu.raw()) + i * mask.cpu.bytes() / mask.cpu.numel(),
                0, size_of(dtype()));
  }
  copy(*gpu_, mask.cpu, mask.gpu);
  scale_noise(*cpu_, latents.cpu, {prediction.cpu, noise.cpu, 0.731f, mask.cpu});
  scale_noise(*gpu_, latents.gpu, {prediction.gpu, noise.gpu, 0.731f, mask.gpu});
  expect_equal(latents, "noise where the mask is 0");
  scale_noise(*cpu_, latents.cpu, {prediction.cpu, noise.cpu, 0.731f, {}});
  scale_noise(*gpu_, latents.gpu, {prediction.gpu, noise.gpu, 0.731f, {}});
  expect_equal(latents, "noise");
  const Twin unpacked = random({16, 8, 12});
  unpack_tokens(*cpu_, latents.cpu, 0.3611f, 0.1159f, unpacked.cpu);
  unpack_tokens(*gpu_, latents.gpu, 0.3611f, 0.1159f, unpacked.gpu);
  expect_equal(unpacked, "unpacking");
  const Twin image = random({3, 9, 7}, DType::kF32);
  image.cpu.data<float>()[5] = std::numeric_limits<float>::quiet_NaN();
  copy(*gpu_, image.cpu, image.gpu);
  const Twin pixels{Tensor::allocate({9, 7, 3}, DType::kU8),
                    new_tensor(*gpu_, {9, 7, 3}, DType::kU8)};
  to_bytes(*cpu_, image.cpu, pixels.cpu);
  to_bytes(*gpu_, image.gpu, pixels.gpu);
  expect_equal(pixels, "pixels");
}

INSTANTIATE_TEST_SUITE_P(Types, CudaOps, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& test) { return std::string(name_of(test.param)); });

TEST(CudaFences, OneContextWaitsForAnother) {
  if (!has_cuda()) GTEST_SKIP() << "there is no GPU";
  Context first(backend_for(kGpu), 1);
  Context second(backend_for(kGpu), 1);
  const Shape shape{2048,
                    4096};  // a pass over it takes the GPU longer than the host to ask for one
  const Tensor host = Tensor::allocate(shape, DType::kF32);
  std::fill_n(host.data<float>(), shape.numel(), 1.0f);
  const Tensor ones = to_device(first, host);
  const Tensor sum = to_device(first, host);
  const Tensor seen = new_tensor(second, shape, DType::kF32);
  for (int i = 0; i < 200; ++i) add(first, sum, ones, sum);
  const std::shared_ptr<const Fence> done = make_fence(first);
  wait_for(second, done.get());
  wait_for(second, nullptr);
  copy(second, sum, seen);
  EXPECT_EQ(to_host(second, seen).data<float>()[shape.numel() - 1], 201.0f);
  done->wait();
  Context cpu(backend_for(Device{}), 1);
  EXPECT_EQ(make_fence(cpu), nullptr);
}

TEST(CudaMemory, TooMuchIsAnErrorAndTheRestGoesOn) {
  if (!has_cuda()) GTEST_SKIP() << "there is no GPU";
  Context ctx(backend_for(kGpu), 1);
  try {
    ctx.workspace().allocate({int64_t{1} << 44}, DType::kF32);
    FAIL() << "there is no such GPU";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
    EXPECT_NE(std::string(error.what()).find("out of memory on cuda:0"), std::string::npos);
  }
  const Tensor host = Tensor::allocate({4}, DType::kF32);
  std::fill_n(host.data<float>(), 4, 2.5f);
  EXPECT_EQ(to_host(ctx, to_device(ctx, host)).data<float>()[3], 2.5f);
}

TEST(CudaMemory, TensorsOfTheHostAreRefused) {
  if (!has_cuda()) GTEST_SKIP() << "there is no GPU";
  Context ctx(backend_for(kGpu), 1);
  const Tensor host = Tensor::allocate({4}, DType::kF32);
  EXPECT_THROW(activate(ctx, host, Activation::kSilu, host), Error);
}

}  // namespace
}  // namespace flux
