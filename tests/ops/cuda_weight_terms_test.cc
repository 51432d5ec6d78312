// Changes of linears' weights on the GPU against the CPU's. Skipped without a GPU.
#include <functional>
#include <list>
#include <vector>

#include "ops/cuda_e4m3.h"

namespace flux {
namespace {

struct Size {
  int64_t rows, in, out;
};
/// Some that hopper_linear() computes in bf16, and some that it cannot.
constexpr Size kSizes[] = {{1, 256, 640}, {70, 72, 200}, {300, 256, 1000}, {577, 64, 128},
                           {33, 40, 70},  {5, 33, 20},   {1100, 128, 384}, {200, 1024, 3072}};

/// Changes on both devices.
class Changes {
 public:
  using Pack = std::function<WeightChange(Context&)>;

  /// A change and its scale.
  void add(Context& cpu, Context& gpu, float scale, const Pack& pack) {
    cpu_.push_back(pack(cpu));
    gpu_.push_back(pack(gpu));
    on_cpu.push_back({&cpu_.back(), scale});
    on_gpu.push_back({&gpu_.back(), scale});
  }

  std::vector<WeightTerm> on_cpu;
  std::vector<WeightTerm> on_gpu;

 private:
  std::list<WeightChange> cpu_, gpu_;
};

class CudaWeightTerms : public CudaE4M3 {
 protected:
  void SetUp() override { CudaOps::SetUp(); }

  Tensor matrix(int64_t rows, int64_t columns, float spread) {
    return random({rows, columns}, DType::kF32, 0.0f, spread).cpu;
  }
  void add_low_rank(Changes& changes, const Size& size, int64_t rank, int64_t begin, int64_t end,
                    float scale, bool gains = false) {
    const Tensor down = matrix(rank, size.in, 1.0f / std::sqrt(static_cast<float>(size.in)));
    const Tensor up = matrix(end - begin, rank, 1.0f / std::sqrt(static_cast<float>(rank)));
    const Tensor gain = gains ? random({end - begin}, DType::kF32, 0.0f, 0.2f).cpu : Tensor();
    changes.add(*cpu_, *gpu_, scale, [&](Context& ctx) {
      return pack_low_rank(ctx, down, up, gain, begin, type_of(ctx));
    });
  }
  void add_whole(Changes& changes, const Size& size, int64_t begin, float scale) {
    const Tensor whole =
        matrix(size.out - begin, size.in, 1.0f / std::sqrt(static_cast<float>(size.in)));
    changes.add(*cpu_, *gpu_, scale, [&](Context& ctx) {
      return pack_low_rank(ctx, whole, {}, {}, begin, type_of(ctx));
    });
  }
  void add_kronecker(Changes& changes, const Size& size, int64_t begin, float scale) {
    const int64_t columns = size.in % 4 == 0 ? 4 : 1;
    const Tensor outer = matrix(5, columns, 1.0f);
    const Tensor inner = matrix((size.out + 3) / 4, size.in / columns,
                                1.0f / std::sqrt(static_cast<float>(size.in)));
    changes.add(*cpu_, *gpu_, scale, [&](Context& ctx) {
      return pack_kronecker(ctx, outer, inner, inner.size(0) / 2, size.out - begin, begin,
                            type_of(ctx));
    });
  }
  void add_bias(Changes& changes, const Size& size, int64_t begin, float scale) {
    const Tensor bias = random({size.out - begin}, DType::kF32).cpu;
    changes.add(*cpu_, *gpu_, scale, [&](Context& ctx) {
      return pack_bias_change(ctx, bias, size.in, begin, type_of(ctx));
    });
  }
  /// One by one, and all together.
  std::vector<std::pair<std::string, Changes>> kinds(const Size& size) {
    std::vector<std::pair<std::string, Changes>> kinds;
    const auto next = [&](const std::string& name) -> Changes& {
      return kinds.emplace_back(name, Changes()).second;
    };
    const int64_t third = size.out / 3;
    for (const int64_t rank : {1, 8, 16, 65, 256}) {
      add_low_rank(next(fmt::format("rank {}", rank)), size, rank, 0, size.out, 0.7f);
    }
    add_low_rank(next("some outputs"), size, 20, third, size.out - 3, -1.5f);
    add_low_rank(next("gains"), size, 4, third, size.out, 0.5f, true);
    add_whole(next("whole"), size, third, 0.75f);
    add_kronecker(next("Kronecker product"), size, third, -1.0f);
    add_bias(next("bias"), size, third, 2.0f);
    Changes& all = next("all");
    add_low_rank(all, size, 16, 0, third, 1.0f);
    add_low_rank(all, size, 12, third, size.out, -0.5f, true);
    add_low_rank(all, size, 3, 0, size.out, 0.3f, true);
    add_whole(all, size, third, 0.5f);
    add_kronecker(all, size, 0, 0.5f);
    add_bias(all, size, 0, -1.0f);
    return kinds;
  }

  DType type_of(const Context& ctx) const { return ctx.device().is_cpu() ? cpu_type_ : dtype(); }
  DType cpu_type_ = GetParam();
};

TEST_P(CudaWeightTerms, AreThoseOfTheCpu) {
  enum class Kind { kPlain, kGelu, kSilu, kGated, kResidual };
  for (const Size& size : kSizes) {
    const Twin weight =
        random({size.out, size.in}, dtype(), 0.0f, 1.0f / std::sqrt(static_cast<float>(size.in)));
    const Twin bias = random({size.out}, DType::kF32);
    const LinearWeights on_cpu = pack_linear(*cpu_, {{weight.cpu}}, {{bias.cpu}}, dtype());
    const LinearWeights on_gpu = pack_linear(*gpu_, {{weight.cpu}}, {{bias.cpu}}, dtype());
    const Twin x = rows(size.rows, size.in, 8);
    const Twin gate = random({size.out}, DType::kF32);
    for (const auto& [name, changes] : kinds(size)) {
      for (const Kind kind :
           {Kind::kPlain, Kind::kGelu, Kind::kSilu, Kind::kGated, Kind::kResidual}) {
        const Twin out = rows(size.rows, size.out, 8);
        LinearPart cpu{x.cpu, &on_cpu, {}, out.cpu, {}, {}, changes.on_cpu};
        LinearPart gpu{x.gpu, &on_gpu, {}, out.gpu, {}, {}, changes.on_gpu};
        for (LinearPart* part : {&cpu, &gpu}) {
          const bool host = part == &cpu;
          Epilogue& epilogue = part->epilogue;
          if (kind == Kind::kGelu) epilogue.activation = Activation::kGeluTanh;
          if (kind == Kind::kSilu) epilogue.activation = Activation::kSilu;
          if (kind == Kind::kGated) epilogue.gate = host ? gate.cpu : gate.gpu;
          if (kind >= Kind::kGated) epilogue.residual = part->out;
        }
        linear(*cpu_, {&cpu, 1});
        linear(*gpu_, {&gpu, 1});
        expect_same(out, fmt::format("{}x{}x{}, {}, {}", size.rows, size.in, size.out, name,
                                     static_cast<int>(kind)));
      }
    }
  }
}

TEST_P(CudaWeightTerms, APartIsTheSameAloneAndAmongOthers) {
  const Size size{0, 256, 1536};
  std::vector<LinearWeights> weights;
  for (int i = 0; i < 2; ++i) {
    const Twin weight = random({size.out, size.in}, dtype(), 0.0f, 1.0f / 16);
    weights.push_back(pack_linear(*gpu_, {{weight.cpu}}, {}, dtype()));
  }
  // 23 parts of up to 48 terms: more than one launch takes.
  std::list<Changes> changes;
  std::vector<LinearPart> parts;
  std::vector<Tensor> alone;
  for (const int64_t count : {1, 63, 65, 192, 200, 577, 1,  63, 65, 192, 200, 577,
                              1, 63, 65, 192, 200, 577, 70, 80, 90, 100, 110}) {
    Changes& own = changes.emplace_back();
    const size_t kind = parts.size() % 4;
    if (kind == 1) add_low_rank(own, size, 16, 0, size.out, 1.0f);
    if (kind == 2) {
      for (int64_t i = 0; i < 16; ++i) {
        for (int64_t third = 0; third < 3; ++third) {
          add_low_rank(own, size, 1 + i, third * 512, third * 512 + 512, 0.1f);
        }
      }
    }
    if (kind == 3) add_whole(own, size, 8, 1.0f);
    LinearPart part{rows(count, size.in, 8).gpu,
                    &weights[parts.size() % 2],
                    {},
                    rows(count, size.out, 8).gpu,
                    {},
                    {},
                    own.on_gpu};
    alone.push_back(random({count, size.out}).gpu);
    LinearPart single = part;
    single.out = alone.back();
    linear(*gpu_, {&single, 1});
    parts.push_back(part);
  }
  linear(*gpu_, parts);
  for (size_t i = 0; i < parts.size(); ++i) {
    EXPECT_TRUE(same_bytes(*gpu_, parts[i].out, alone[i])) << "part " << i;
  }
}

TEST_P(CudaWeightTerms, OfScaleZeroAreNone) {
  const Size size{300, 256, 640};
  const Twin weight = random({size.out, size.in}, dtype(), 0.0f, 0.1f);
  const LinearWeights weights = pack_linear(*gpu_, {{weight.cpu}}, {}, dtype());
  Changes changes;
  add_low_rank(changes, size, 16, 0, size.out, 0.0f, true);
  add_whole(changes, size, 0, 0.0f);
  const Twin x = rows(size.rows, size.in, 0);
  const Tensor base = random({size.rows, size.out}).gpu;
  linear(*gpu_, x.gpu, weights, {}, base);
  const LinearPart part{x.gpu, &weights,      {}, random({size.rows, size.out}).gpu, {},
                        {},    changes.on_gpu};
  linear(*gpu_, {&part, 1});
  EXPECT_TRUE(same_bytes(*gpu_, part.out, base));
}

/// Parts with and without changes, whose heads are normalised in the same call.
TEST_P(CudaWeightTerms, HeadsAreNormalisedAfterThem) {
  constexpr int64_t kHeads = 4;
  constexpr int64_t kDim = 128;
  const Size size{0, 256, 3 * kHeads * kDim};
  const Twin weight = random({size.out, size.in}, dtype(), 0.0f, 1.0f / 16);
  const LinearWeights weights = pack_linear(*gpu_, {{weight.cpu}}, {}, dtype());
  std::list<Changes> changes;
  std::vector<LinearPart> parts;
  std::vector<Tensor> in_passes;
  for (const int64_t count : {70, 1030, 300}) {
    Changes& own = changes.emplace_back();
    for (int64_t third = 0; count != 300 && third < 3; ++third) {
      add_low_rank(own, size, 16, third * kHeads * kDim, (third + 1) * kHeads * kDim, 0.8f,
                   count == 70);
    }
    LinearPart part{rows(count, size.in, 8).gpu,
                    &weights,
                    {},
                    rows(count, size.out, 8).gpu,
                    {},
                    {},
                    own.on_gpu};
    in_passes.push_back(random({count, size.out}).gpu);
    LinearPart plain = part;
    plain.out = in_passes.back();
    linear(*gpu_, {&plain, 1});
    const RopeTable rope{random({count, kDim / 2}, DType::kF32).gpu,
                         random({count, kDim / 2}, DType::kF32).gpu};
    const Tensor norm = random({kDim}, DType::kF32, 0.3f).gpu;
    part.epilogue.norm = {norm, norm, 1e-6f, rope, kHeads, kHeads};
    norm_in_passes(*gpu_, *part.epilogue.norm, in_passes.back());
    parts.push_back(part);
  }
  linear(*gpu_, parts);
  for (size_t i = 0; i < parts.size(); ++i) {
    EXPECT_TRUE(same_bytes(*gpu_, parts[i].out, in_passes[i])) << "part " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CudaWeightTerms, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& test) { return std::string(name_of(test.param)); });

/// Products of e4m3, against the CPU's with the same values in f32.
class CudaE4M3WeightTerms : public CudaWeightTerms {
 protected:
  void SetUp() override {
    CudaE4M3::SetUp();
    cpu_type_ = DType::kF32;
  }
};

TEST_P(CudaE4M3WeightTerms, AreThoseOfTheCpu) {
  enum class Kind { kPlain, kGated, kEncoded };
  for (const Size& size : {Size{70, 256, 640}, Size{577, 3072, 1536}, Size{200, 64, 9216}}) {
    const Twin weight = random({size.out, size.in}, DType::kBF16, 0.0f,
                               1.0f / std::sqrt(static_cast<float>(size.in)));
    const Twin bias = random({size.out}, DType::kBF16);
    const LinearWeights on_cpu = pack(*cpu_, weight, bias, DType::kF32);
    const LinearWeights on_gpu = pack(*gpu_, weight, bias, DType::kBF16);
    ASSERT_TRUE(on_gpu.takes_e4m3());
    const Encoded x = encoded(size.rows, size.in);
    const Twin gate = random({size.out}, DType::kF32);
    const Twin residual = random({size.rows, size.out}, DType::kBF16);
    for (const auto& [name, changes] : kinds(size)) {
      for (const Kind kind : {Kind::kPlain, Kind::kGated, Kind::kEncoded}) {
        const std::string what = fmt::format("{}x{}x{}, {}, {}", size.rows, size.in, size.out, name,
                                             static_cast<int>(kind));
        const Tensor expected = Tensor::allocate({size.rows, size.out}, DType::kF32);
        LinearPart cpu{x.values, &on_cpu, {}, expected, {}, {}, changes.on_cpu};
        LinearPart gpu{
            x.numbers,
            &on_gpu,
            {},
            new_rows(size.rows, size.out, kind == Kind::kEncoded ? DType::kU8 : DType::kBF16),
            x.scales,
            {},
            changes.on_gpu};
        if (kind == Kind::kGated) {
          cpu.epilogue.gate = gate.cpu;
          cpu.epilogue.residual = to_dtype(residual.cpu, DType::kF32);
          gpu.epilogue.gate = gate.gpu;
          gpu.epilogue.residual = residual.gpu;
        }
        if (kind == Kind::kEncoded) {
          cpu.epilogue.activation = gpu.epilogue.activation = Activation::kGeluTanh;
          gpu.out_scales = new_scales(size.rows);
        }
        linear(*cpu_, {&cpu, 1});
        linear(*gpu_, {&gpu, 1});
        if (kind == Kind::kEncoded) {
          expect_encoded(gpu.out, gpu.out_scales.scales, expected, 0.02f, what);
        } else {
          expect_same({expected, gpu.out}, what);
        }
      }
    }
  }
}

TEST_P(CudaE4M3WeightTerms, LeaveOtherPartsAsTheyAre) {
  const Size size{0, 256, 1536};
  const Twin weight = random({size.out, size.in}, DType::kBF16, 0.0f, 1.0f / 16);
  const Twin bias = random({size.out}, DType::kBF16);
  const LinearWeights weights = pack(*gpu_, weight, bias, DType::kBF16);
  std::list<Changes> changes;
  std::vector<LinearPart> parts;
  std::vector<LinearPart> alone;
  for (const int64_t count : {65, 200, 577, 70, 1100}) {
    Changes& own = changes.emplace_back();
    if (parts.size() % 2 == 1) add_low_rank(own, size, 16, 0, size.out, 1.0f, count == 70);
    const Encoded x = encoded(count, size.in);
    for (std::vector<LinearPart>* to : {&parts, &alone}) {
      LinearPart part{
          x.numbers, &weights,          {},        new_rows(count, size.out, DType::kU8),
          x.scales,  new_scales(count), own.on_gpu};
      part.epilogue.activation = Activation::kGeluTanh;
      to->push_back(part);
    }
    linear(*gpu_, {&alone.back(), 1});
  }
  linear(*gpu_, parts);
  for (size_t i = 0; i < parts.size(); ++i) {
    EXPECT_TRUE(same_bytes(*gpu_, parts[i].out, alone[i].out)) << "part " << i;
    EXPECT_TRUE(same_bytes(*gpu_, parts[i].out_scales.scales, alone[i].out_scales.scales));
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CudaE4M3WeightTerms, testing::Values(DType::kBF16),
                         [](const auto& test) { return std::string(name_of(test.param)); });

}  // namespace
}  // namespace flux
