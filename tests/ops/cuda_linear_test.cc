// Linears on the GPU against the CPU's. Skipped without a GPU.
#include <vector>

#include "ops/cuda_ops.h"

namespace flux {
namespace {

class CudaOpsLinears : public CudaOps {};

struct LinearCase {
  int64_t rows, in, out, gap;
};
constexpr LinearCase kLinearCases[] = {{1, 256, 1537, 0},   {1, 33, 5, 0},      {1, 1, 1, 0},
                                       {3, 5, 7, 1},        {77, 64, 64, 8},    {129, 48, 130, 3},
                                       {300, 96, 128, 8},   {40, 130, 1100, 0}, {5, 1200, 24, 0},
                                       {513, 768, 2304, 16}};

TEST_P(CudaOpsLinears, Linear) {
  for (const LinearCase& c : kLinearCases) {
    const std::string name = fmt::format("{}x{}x{}", c.rows, c.in, c.out);
    const float spread = 1.0f / std::sqrt(static_cast<float>(c.in));
    const Twin weight = random({c.out, c.in}, dtype(), 0.0f, spread);
    const Twin bias = random({c.out}, DType::kF32);
    const Twin gate = random({c.out}, DType::kF32);
    const Twin x = rows(c.rows, c.in, c.gap);
    for (const bool biased : {false, true}) {
      const std::vector<ConstTensor> biases =
          biased ? std::vector<ConstTensor>{bias.cpu} : std::vector<ConstTensor>{};
      const LinearWeights on_cpu = pack_linear(*cpu_, {{weight.cpu}}, biases, dtype());
      const LinearWeights on_gpu = pack_linear(*gpu_, {{weight.cpu}}, biases, dtype());
      for (const Activation activation :
           {Activation::kNone, Activation::kGeluTanh, Activation::kSilu}) {
        for (const bool gated : {false, true}) {
          for (const bool residual : {false, true}) {
            const Twin out = rows(c.rows, c.out, c.gap);
            Epilogue cpu{activation, {}, {}};
            Epilogue gpu = cpu;
            if (gated) cpu.gate = gate.cpu, gpu.gate = gate.gpu;
            if (residual) cpu.residual = out.cpu, gpu.residual = out.gpu;
            linear(*cpu_, x.cpu, on_cpu, cpu, out.cpu);
            linear(*gpu_, x.gpu, on_gpu, gpu, out.gpu);
            expect_same(out, fmt::format("{} bias {} activation {} gate {} residual {}", name,
                                         biased, static_cast<int>(activation), gated, residual));
          }
        }
      }
    }
  }
}

TEST_P(CudaOpsLinears, ARowOfALinearIsTheSameAmongOthers) {
  const Twin weight = random({300, 256}, dtype(), 0.0f, 0.1f);
  const LinearWeights packed = pack_linear(*gpu_, {{weight.cpu}}, {}, dtype());
  const Twin x = random({28, 256});
  const Twin together = random({28, 300});
  const Twin alone = random({1, 300});
  linear(*gpu_, x.gpu, packed, {}, together.gpu);
  for (int64_t row = 0; row < 28; ++row) {
    linear(*gpu_, x.gpu.slice(0, row, row + 1), packed, {}, alone.gpu);
    const ConstTensor a = to_host(*gpu_, alone.gpu);
    const ConstTensor b = to_host(*gpu_, together.gpu.slice(0, row, row + 1));
    EXPECT_EQ(std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())), 0) << row;
  }
}

TEST_P(CudaOpsLinears, PartsOfALinearAreTheSameAlone) {
  struct Case {
    int64_t in, out;
  };
  for (const Case& c : {Case{256, 640},
                        {328, 200},
                        {64, 8},
                        {1024, 3072},
                        {3072, 4096},
                        {33, 70},
                        {64, 6152},
                        {72, 9216},
                        {64, 12288}}) {
    const float spread = 1.0f / std::sqrt(static_cast<float>(c.in));
    std::vector<LinearWeights> weights;
    for (int i = 0; i < 2; ++i) {
      const Twin weight = random({c.out, c.in}, dtype(), 0.0f, spread);
      const Twin bias = random({c.out}, DType::kF32);
      weights.push_back(pack_linear(*gpu_, {{weight.cpu}}, {{bias.cpu}}, dtype()));
    }
    enum class Kind { kBias, kGelu, kGated };
    for (const Kind kind : {Kind::kBias, Kind::kGelu, Kind::kGated}) {
      std::vector<LinearPart> parts;
      std::vector<Tensor> alone;
      for (const int64_t count : {1, 63, 65, 192, 200, 577}) {
        LinearPart part;
        part.x = rows(count, c.in, 8).gpu;
        part.weights = &weights[parts.size() % 2];
        part.out = rows(count, c.out, 8).gpu;
        if (kind == Kind::kGelu) part.epilogue.activation = Activation::kGeluTanh;
        if (kind == Kind::kGated) {
          part.epilogue.gate = random({c.out}, DType::kF32).gpu;
          part.epilogue.residual = random({count, c.out}).gpu;
        }
        alone.push_back(random({count, c.out}).gpu);
        linear(*gpu_, part.x, *part.weights, part.epilogue, alone.back());
        parts.push_back(part);
      }
      linear(*gpu_, parts);
      for (size_t i = 0; i < parts.size(); ++i) {
        EXPECT_TRUE(same_bytes(*gpu_, parts[i].out, alone[i]))
            << c.in << "x" << c.out << " kind " << static_cast<int>(kind) << " part " << i;
      }
    }
  }
}

TEST_P(CudaOpsLinears, LinearOfStackedWeightsOfOtherTypes) {
  const Twin first = random({100, 40}, DType::kF16, 0.0f, 0.2f);
  const Twin second = random({60, 40}, DType::kBF16, 0.0f, 0.2f);
  const Twin bias = random({60}, DType::kF32);
  const std::vector<StoredTensor> weights = {first.cpu, second.cpu};
  const std::vector<ConstTensor> biases = {ConstTensor(), bias.cpu};
  const Twin x = rows(9, 40, 0);
  const Twin out = rows(9, 160, 0);
  linear(*cpu_, x.cpu, pack_linear(*cpu_, weights, biases, dtype()), {}, out.cpu);
  linear(*gpu_, x.gpu, pack_linear(*gpu_, weights, biases, dtype()), {}, out.gpu);
  expect_same(out, "stacked");
}

/// Some sizes have many columns and a small depth, so that hopper_linear() computes them in bf16.
TEST_P(CudaOpsLinears, NormsOfHeadsAreTheSameInPasses) {
  struct Case {
    int64_t q_heads, k_heads, others, dim, in;  // others: columns
    std::vector<int64_t> rows;
  };
  for (const Case& c :
       {Case{24, 24, 3072, 128, 256, {1, 63, 65, 128, 300, 1100, 513}},
        Case{24, 24, 3072, 128, 128, {4608}}, Case{3, 3, 384, 128, 256, {4607, 77}},
        Case{5, 5, 640, 128, 72, {700, 1030, 2000}}, Case{5, 5, 640, 128, 72, {2100}},
        Case{1, 1, 128, 128, 64, {9000}}, Case{4, 4, 256, 64, 96, {1, 70, 300}},
        // Grouped queries, and other columns beside the values.
        Case{32, 8, 1024, 128, 128, {77, 4096}}, Case{4, 1, 128, 128, 64, {513, 9000}},
        Case{24, 24, 3080, 128, 256, {512, 4096}}, Case{2, 1, 0, 128, 64, {9000, 70}},
        Case{3, 1, 40, 64, 96, {1, 70, 300}}}) {
    const int64_t columns = (c.q_heads + c.k_heads) * c.dim + c.others;
    const float spread = 1.0f / std::sqrt(static_cast<float>(c.in));
    const auto vector = [&](int64_t n) { return random({n}, DType::kF32, 0.3f).gpu; };
    std::vector<LinearWeights> weights;
    for (int i = 0; i < 2; ++i) {
      const Twin weight = random({columns, c.in}, dtype(), 0.0f, spread);
      const Twin bias = random({columns}, DType::kF32);
      const std::vector<ConstTensor> biases =
          i == 0 ? std::vector<ConstTensor>{bias.cpu} : std::vector<ConstTensor>{};
      weights.push_back(pack_linear(*gpu_, {{weight.cpu}}, biases, dtype()));
    }
    std::vector<LinearPart> parts;
    std::vector<Tensor> in_passes;
    for (const int64_t count : c.rows) {
      const auto new_rows = [&](int64_t gap) {
        return new_tensor(*gpu_, {count, columns + gap}, dtype()).slice(1, 0, columns);
      };
      LinearPart part{rows(count, c.in, 8).gpu, &weights[parts.size() % 2], {}, new_rows(8)};
      in_passes.push_back(new_rows(0));
      linear(*gpu_, part.x, *part.weights, {}, in_passes.back());
      const RopeTable rope{random({count, c.dim / 2}, DType::kF32).gpu,
                           random({count, c.dim / 2}, DType::kF32).gpu};
      part.epilogue.norm = {vector(c.dim), vector(c.dim), 1e-6f, rope, c.q_heads, c.k_heads};
      norm_in_passes(*gpu_, *part.epilogue.norm, in_passes.back());
      parts.push_back(part);
    }
    linear(*gpu_, parts);
    for (size_t i = 0; i < parts.size(); ++i) {
      EXPECT_TRUE(same_bytes(*gpu_, parts[i].out, in_passes[i]))
          << c.q_heads << " and " << c.k_heads << " heads of " << c.dim << ", " << c.rows[i]
          << " rows";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CudaOpsLinears, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& test) { return std::string(name_of(test.param)); });

}  // namespace
}  // namespace flux
