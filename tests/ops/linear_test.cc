#include <gtest/gtest.h>

#include <functional>

#include "ops/product_reference.h"
#include "ops/registry.h"
#include "support/error.h"

namespace flux {
namespace {

namespace ref = product_reference;

Context cpu_context(int threads) { return Context(backend_for(Device{}), threads); }

struct LinearCase {
  int64_t rows;
  int64_t in;
  int64_t out;
};

class LinearTest : public testing::TestWithParam<std::tuple<ref::Compute, LinearCase>> {
 protected:
  LinearTest() : path_(std::get<0>(GetParam()).path) {}

  DType dtype() const { return std::get<0>(GetParam()).dtype; }
  const LinearCase& shape() const { return std::get<1>(GetParam()); }
  Tensor rows_of(int64_t n, int64_t gap, uint32_t seed) const {
    return ref::random_rows(shape().rows, n, gap, dtype(), seed);
  }
  Tensor weight() const {
    return ref::random_tensor({shape().out, shape().in}, dtype(), 1,
                              1.0 / std::sqrt(static_cast<double>(shape().in)));
  }
  Tensor bias() const { return ref::random_tensor({shape().out}, DType::kF32, 2); }

  static void expect_near(const Tensor& out, const std::vector<double>& expected) {
    const ref::Difference difference = ref::compare(out, expected);
    EXPECT_LE(difference.largest, ref::tolerance(out.dtype()) * difference.scale);
  }

 private:
  ref::Bf16PathScope path_;
};

TEST_P(LinearTest, MatchesTheReference) {
  Context ctx = cpu_context(2);
  const Tensor x = rows_of(shape().in, 0, 3);
  const Tensor out = rows_of(shape().out, 0, 4);
  const LinearWeights weights = pack_linear(ctx, {{weight()}}, {{bias()}}, dtype());
  linear(ctx, x, weights, {}, out);
  expect_near(out, ref::linear(x, weight(), bias(), {}));
}

TEST_P(LinearTest, MatchesTheReferenceWithStridesGateAndResidual) {
  Context ctx = cpu_context(3);
  const Tensor x = rows_of(shape().in, 5, 3);
  Epilogue epilogue;
  epilogue.activation = Activation::kGeluTanh;
  epilogue.gate = ref::random_tensor({shape().out}, DType::kF32, 5);
  epilogue.residual = rows_of(shape().out, 3, 6);
  const Tensor storage = ref::random_tensor({shape().rows, shape().out + 7}, dtype(), 4);
  const Tensor before = to_dtype(storage, dtype());
  const Tensor out = storage.slice(1, 0, shape().out);
  const LinearWeights weights = pack_linear(ctx, {{weight()}}, {{bias()}}, dtype());
  linear(ctx, x, weights, epilogue, out);
  expect_near(out, ref::linear(x, weight(), bias(), epilogue));
  for (int64_t i = 0; i < shape().rows; ++i) {
    for (int64_t j = shape().out; j < shape().out + 7; ++j) {
      ASSERT_EQ(ref::get(storage[i], j), ref::get(before[i], j)) << "the gap was written to";
    }
  }
}

TEST_P(LinearTest, IsTheSameForAnyNumberOfThreads) {
  const Tensor x = rows_of(shape().in, 0, 3);
  Epilogue epilogue;
  const Tensor residual = rows_of(shape().out, 0, 6);
  epilogue.residual = residual;
  Tensor first;
  for (int threads = 1; threads <= 5; ++threads) {
    Context ctx = cpu_context(threads);
    const Tensor out = Tensor::allocate({shape().rows, shape().out}, dtype());
    linear(ctx, x, pack_linear(ctx, {{weight()}}, {{bias()}}, dtype()), epilogue, out);
    if (!first.defined()) first = out;
    EXPECT_TRUE(ref::same_bytes(out, first)) << threads << " threads";
  }
}

TEST_P(LinearTest, FewRowsAreTheSameAloneAndTogether) {
  Context ctx = cpu_context(2);
  const Tensor x = rows_of(shape().in, 0, 3);
  const LinearWeights weights = pack_linear(ctx, {{weight()}}, {{bias()}}, dtype());
  const int64_t rows = std::min<int64_t>(shape().rows, 64);
  const Tensor together = Tensor::allocate({rows, shape().out}, dtype());
  linear(ctx, x.slice(0, 0, rows), weights, {}, together);
  for (int64_t i = 0; i < rows; i += 7) {
    const Tensor alone = Tensor::allocate({1, shape().out}, dtype());
    linear(ctx, x.slice(0, i, i + 1), weights, {}, alone);
    EXPECT_TRUE(ref::same_bytes(alone, together.slice(0, i, i + 1))) << "row " << i;
  }
}

TEST_P(LinearTest, ResidualMayBeTheOutput) {
  Context ctx = cpu_context(2);
  const Tensor x = rows_of(shape().in, 0, 3);
  const LinearWeights weights = pack_linear(ctx, {{weight()}}, {{bias()}}, dtype());
  Epilogue epilogue;
  epilogue.gate = ref::random_tensor({shape().out}, DType::kF32, 5);
  const Tensor residual = rows_of(shape().out, 0, 6);
  epilogue.residual = residual;
  const Tensor apart = Tensor::allocate({shape().rows, shape().out}, dtype());
  linear(ctx, x, weights, epilogue, apart);
  linear(ctx, x, weights, epilogue, residual);
  EXPECT_TRUE(ref::same_bytes(apart, residual));
}

/// Adds scale * x (up down)^T to columns of `expected`; x down^T is rounded as the op rounds it.
void add_low_rank(const Tensor& x, const Tensor& down, const Tensor& up, int64_t begin,
                  double scale, int64_t columns, std::vector<double>& expected) {
  const std::vector<double> narrow = ref::linear(x, down, {}, {});
  const Tensor rounded = Tensor::allocate({x.size(0), down.size(0)}, x.dtype());
  for (int64_t i = 0; i < rounded.numel(); ++i)
    ref::set(rounded, i, narrow[static_cast<size_t>(i)]);
  const std::vector<double> product = ref::linear(rounded, up, {}, {});
  for (int64_t i = 0; i < x.size(0); ++i) {
    for (int64_t j = 0; j < up.size(0); ++j) {
      expected[static_cast<size_t>(i * columns + begin + j)] +=
          scale * product[static_cast<size_t>(i * up.size(0) + j)];
    }
  }
}

TEST_P(LinearTest, ChangesOfLowRankAreAddedToTheSums) {
  Context ctx = cpu_context(2);
  const Tensor x = rows_of(shape().in, 3, 3);
  const LinearWeights weights = pack_linear(ctx, {{weight()}}, {{bias()}}, dtype());
  Epilogue epilogue;
  epilogue.gate = ref::random_tensor({shape().out}, DType::kF32, 5);
  epilogue.residual = rows_of(shape().out, 3, 6);
  std::vector<double> expected = ref::linear(x, weight(), bias(), {});
  std::vector<WeightChange> changes;
  LinearPart part{x, &weights, epilogue, rows_of(shape().out, 2, 4)};
  // Of all outputs, and of some that no vector begins or ends with.
  for (const auto& [rank, begin, end, scale] :
       {std::tuple(4, int64_t{0}, shape().out, 0.5f),
        std::tuple(3, shape().out / 3, shape().out - shape().out / 4, -1.5f)}) {
    const auto seed = static_cast<uint32_t>(rank);
    const Tensor down = ref::random_tensor({rank, shape().in}, dtype(), seed,
                                           1.0 / std::sqrt(static_cast<double>(shape().in)));
    const Tensor up = ref::random_tensor({end - begin, rank}, dtype(), seed + 10, 0.5);
    changes.push_back(pack_low_rank(ctx, down, up, {}, begin, dtype()));
    add_low_rank(x, down, up, begin, scale, shape().out, expected);
    part.terms.push_back({nullptr, scale});
  }
  // Of the bias.
  const Tensor more = ref::random_tensor({shape().out - shape().out / 3}, DType::kF32, 30);
  changes.push_back(pack_bias_change(ctx, more, shape().in, shape().out / 3, dtype()));
  part.terms.push_back({nullptr, -2.0f});
  for (int64_t i = 0; i < shape().rows; ++i) {
    for (int64_t j = 0; j < more.size(0); ++j) {
      expected[static_cast<size_t>(i * shape().out + shape().out / 3 + j)] -= 2 * ref::get(more, j);
    }
  }
  // One that has no low rank.
  const int64_t first = shape().out / 2;
  const Tensor whole = ref::random_tensor({shape().out - first, shape().in}, dtype(), 20,
                                          1.0 / std::sqrt(static_cast<double>(shape().in)));
  changes.push_back(pack_low_rank(ctx, whole, {}, {}, first, dtype()));
  part.terms.push_back({nullptr, 0.75f});
  const std::vector<double> product = ref::linear(x, whole, {}, {});
  for (size_t i = 0; i < product.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    const int64_t columns = whole.size(0);
    expected[static_cast<size_t>(at / columns * shape().out + first + at % columns)] +=
        0.75 * product[i];
  }
  for (size_t i = 0; i < changes.size(); ++i) part.terms[i].weights = &changes[i];
  for (size_t i = 0; i < expected.size(); ++i) {
    const auto row = static_cast<int64_t>(i) / shape().out;
    const auto column = static_cast<int64_t>(i) % shape().out;
    expected[i] =
        ref::get(epilogue.residual[row], column) + ref::get(epilogue.gate, column) * expected[i];
  }
  linear(ctx, {&part, 1});
  expect_near(part.out, expected);
}

TEST_P(LinearTest, GainsAreOfTheSumsWithoutChanges) {
  Context ctx = cpu_context(2);
  const Tensor x = rows_of(shape().in, 0, 3);
  const LinearWeights weights = pack_linear(ctx, {{weight()}}, {{bias()}}, dtype());
  const std::vector<double> plain = ref::linear(x, weight(), {}, {});
  std::vector<double> expected = ref::linear(x, weight(), bias(), {});
  LinearPart part{x, &weights, {}, Tensor::allocate({shape().rows, shape().out}, dtype())};
  std::vector<WeightChange> changes;
  for (const auto& [begin, scale] : {std::pair(int64_t{0}, 1.0f), {shape().out / 3, -0.5f}}) {
    const int64_t outputs = shape().out - begin;
    const Tensor down = ref::random_tensor({2, shape().in}, dtype(), 40,
                                           1.0 / std::sqrt(static_cast<double>(shape().in)));
    const Tensor up = ref::random_tensor({outputs, 2}, dtype(), 41, 0.5);
    const Tensor gains = ref::random_tensor({outputs}, DType::kF32, 42);
    changes.push_back(pack_low_rank(ctx, down, up, gains, begin, dtype()));
    part.terms.push_back({nullptr, scale});
    add_low_rank(x, down, up, begin, scale, shape().out, expected);
    for (int64_t i = 0; i < shape().rows; ++i) {
      for (int64_t j = 0; j < outputs; ++j) {
        const auto at = static_cast<size_t>(i * shape().out + begin + j);
        expected[at] += double{scale} * ref::get(gains, j) * plain[at];
      }
    }
  }
  for (size_t i = 0; i < changes.size(); ++i) part.terms[i].weights = &changes[i];
  linear(ctx, {&part, 1});
  expect_near(part.out, expected);
}

TEST_P(LinearTest, RowsOfAKroneckerProductAreAdded) {
  Context ctx = cpu_context(2);
  const Tensor x = rows_of(shape().in, 2, 3);
  const LinearWeights weights = pack_linear(ctx, {{weight()}}, {{bias()}}, dtype());
  std::vector<double> expected = ref::linear(x, weight(), bias(), {});
  const auto smallest_factor = [](int64_t n) {
    for (int64_t i = 2; i <= n; ++i) {
      if (n % i == 0) return i;
    }
    return int64_t{1};
  };
  const int64_t columns = smallest_factor(shape().in);
  const int64_t depth = shape().in / columns;
  const int64_t width = (shape().out + 3) / 4;
  const Tensor outer = ref::random_tensor({5, columns}, DType::kF32, 50);
  const Tensor inner = ref::random_tensor({width, depth}, dtype(), 51,
                                          1.0 / std::sqrt(static_cast<double>(shape().in)));
  // Neither the rows of the product nor the outputs begin with a vector or a factor's rows.
  const int64_t first = width / 2;
  const int64_t begin = shape().out / 4;
  const int64_t outputs = shape().out - begin;
  const WeightChange change = pack_kronecker(ctx, outer, inner, first, outputs, begin, dtype());
  const float scale = -1.5f;
  // outer (x inner^T), both products rounded as the op rounds them.
  const Tensor matrices = Tensor::allocate({shape().rows * columns, depth}, dtype());
  for (int64_t i = 0; i < x.numel(); ++i)
    ref::set(matrices, i, ref::get(x[i / shape().in], i % shape().in));
  const Tensor narrow = Tensor::allocate({shape().rows * columns, width}, dtype());
  const std::vector<double> products = ref::linear(matrices, inner, {}, {});
  for (int64_t i = 0; i < narrow.numel(); ++i)
    ref::set(narrow, i, products[static_cast<size_t>(i)]);
  const Tensor rounded = Tensor::allocate({1}, dtype());
  for (int64_t i = 0; i < shape().rows; ++i) {
    for (int64_t j = 0; j < outputs; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < columns; ++k) {
        sum += ref::get(outer[(first + j) / width], k) *
               ref::get(narrow[i * columns + k], (first + j) % width);
      }
      ref::set(rounded, 0, sum);
      expected[static_cast<size_t>(i * shape().out + begin + j)] += scale * ref::get(rounded, 0);
    }
  }
  LinearPart part{x, &weights, {}, Tensor::allocate({shape().rows, shape().out}, dtype())};
  part.terms = {{&change, scale}};
  linear(ctx, {&part, 1});
  expect_near(part.out, expected);
}

TEST_P(LinearTest, AChangeOfScaleZeroIsNone) {
  Context ctx = cpu_context(2);
  const Tensor x = rows_of(shape().in, 0, 3);
  const LinearWeights weights = pack_linear(ctx, {{weight()}}, {{bias()}}, dtype());
  const WeightChange change =
      pack_low_rank(ctx, ref::random_tensor({2, shape().in}, dtype(), 1),
                    ref::random_tensor({shape().out, 2}, dtype(), 2), {}, 0, dtype());
  const Tensor base = Tensor::allocate({shape().rows, shape().out}, dtype());
  linear(ctx, x, weights, {}, base);
  LinearPart part{x, &weights, {}, Tensor::allocate(base.shape(), dtype())};
  part.terms = {{&change, 0.0f}};
  linear(ctx, {&part, 1});
  EXPECT_TRUE(ref::same_bytes(part.out, base));
}

constexpr LinearCase kLinearCases[] = {
    {1, 1, 1},      {3, 5, 7},       {17, 33, 77},   {77, 64, 64},
    {129, 48, 130}, {128, 256, 384}, {300, 96, 128}, {40, 130, 1100},
    {5, 1200, 24},  {2, 2100, 257},  {1, 256, 1537}, {64, 768, 300},
    {96, 256, 64},  {131, 300, 70},  {800, 260, 40}, {110, 1730, 97}};

INSTANTIATE_TEST_SUITE_P(Shapes, LinearTest,
                         testing::Combine(testing::ValuesIn(ref::computes()),
                                          testing::ValuesIn(kLinearCases)),
                         [](const auto& test) {
                           const LinearCase& shape = std::get<1>(test.param);
                           return fmt::format("{}_{}x{}x{}",
                                              ref::name_of_compute(std::get<0>(test.param)),
                                              shape.rows, shape.in, shape.out);
                         });

TEST(LinearActivations, MatchTheReference) {
  Context ctx = cpu_context(2);
  const Tensor weight = ref::random_tensor({50, 30}, DType::kF32, 1, 0.5);
  const LinearWeights weights = pack_linear(ctx, {{weight}}, {}, DType::kF32);
  const Tensor x = ref::random_tensor({20, 30}, DType::kF32, 2);
  const Tensor out = Tensor::allocate({20, 50}, DType::kF32);
  for (const Activation activation :
       {Activation::kNone, Activation::kGeluTanh, Activation::kGeluErf, Activation::kQuickGelu,
        Activation::kSilu, Activation::kRelu}) {
    const Epilogue epilogue{activation, {}, {}};
    linear(ctx, x, weights, epilogue, out);
    const auto expected = ref::linear(x, weight, {}, epilogue);
    EXPECT_LE(ref::compare(out, expected).largest, 4e-6) << static_cast<int>(activation);
  }
}

RopeTable angles_of(int64_t rows, int64_t pairs, uint32_t seed) {
  return {ref::random_tensor({rows, pairs}, DType::kF32, seed),
          ref::random_tensor({rows, pairs}, DType::kF32, seed + 1)};
}

struct HeadCase {
  int64_t dim, q_heads, k_heads, others;  // others: columns
};

/// Queries and keys have the bytes of rms_norm_rope(), the other columns those of the linear alone.
TEST(LinearHeadNorm, IsRmsNormRopeOfQueriesAndKeys) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const HeadCase& c :
         {HeadCase{2, 3, 3, 6}, HeadCase{16, 3, 3, 48}, HeadCase{128, 3, 3, 384},
          HeadCase{16, 8, 2, 32}, HeadCase{16, 4, 1, 16 + 5}, HeadCase{128, 1, 2, 0},
          HeadCase{16, 2, 0, 7}, HeadCase{16, 0, 2, 7}}) {
      Context ctx = cpu_context(2);
      const int64_t dim = c.dim;
      const int64_t q_and_k = c.q_heads + c.k_heads;
      const int64_t columns = q_and_k * dim + c.others;
      const auto vector = [&](uint32_t seed) {
        return ref::random_tensor({dim}, DType::kF32, seed);
      };
      std::vector<LinearPart> parts;
      std::vector<Tensor> expected;
      const LinearWeights weights[] = {
          pack_linear(ctx, {{ref::random_tensor({columns, 40}, dtype, 1)}}, {}, dtype),
          pack_linear(ctx, {{ref::random_tensor({columns, 40}, dtype, 2)}}, {}, dtype)};
      for (const int64_t rows : {70, 0, 5}) {
        const auto seed = static_cast<uint32_t>(rows);
        LinearPart part{ref::random_rows(rows, 40, 3, dtype, seed),
                        &weights[parts.size() % 2],
                        {},
                        ref::random_rows(rows, columns, 5, dtype, 7)};
        const HeadNorm norm{
            vector(seed + 1), vector(seed + 2), 1e-5f, angles_of(rows, dim / 2, seed + 3),
            c.q_heads,        c.k_heads};
        expected.push_back(Tensor::allocate({rows, columns}, dtype));
        linear(ctx, part.x, *part.weights, {}, expected.back());
        const Tensor heads = expected.back().slice(1, 0, q_and_k * dim).split_last(q_and_k, dim);
        const Tensor q = heads.slice(1, 0, c.q_heads);
        const Tensor k = heads.slice(1, c.q_heads, q_and_k);
        if (c.q_heads > 0) rms_norm_rope(ctx, q, norm.weight_q, 1e-5f, norm.rope);
        if (c.k_heads > 0) rms_norm_rope(ctx, k, norm.weight_k, 1e-5f, norm.rope);
        part.epilogue.norm = norm;
        parts.push_back(part);
      }
      linear(ctx, parts);
      for (size_t i = 0; i < parts.size(); ++i) {
        const Tensor found = to_dtype(parts[i].out, dtype);
        EXPECT_TRUE(ref::same_bytes(found, expected[i]))
            << c.q_heads << " and " << c.k_heads << " heads of " << dim << ", part " << i;
      }
    }
  }
}

TEST(LinearPacking, StacksWeightsOfAnyFloatType) {
  Context ctx = cpu_context(2);
  const Tensor whole = ref::random_tensor({300, 40}, DType::kBF16, 1);
  const Tensor bias = ref::random_tensor({300}, DType::kF32, 2);
  for (int64_t i = 100; i < 170; ++i) ref::set(bias, i, 0.0);
  const std::vector<StoredTensor> weights = {to_dtype(whole.slice(0, 0, 100), DType::kF16),
                                             whole.slice(0, 100, 170),
                                             to_dtype(whole.slice(0, 170, 300), DType::kF64)};
  const std::vector<ConstTensor> biases = {bias.slice(0, 0, 100), Tensor(),
                                           bias.slice(0, 170, 300)};
  const Tensor x = ref::random_tensor({9, 40}, DType::kF32, 3);
  const Tensor out = Tensor::allocate({9, 300}, DType::kF32);
  linear(ctx, x, pack_linear(ctx, weights, biases, DType::kF32), {}, out);
  const ref::Difference difference = ref::compare(out, ref::linear(x, whole, bias, {}));
  // f16 has more digits than bf16 but a smaller range: some of `whole` may have been rounded.
  EXPECT_LE(difference.largest, 1e-5 * difference.scale);
}

TEST(LinearPacking, Bf16WeightsStayBf16InMemory) {
  const Tensor weight = ref::random_tensor({512, 256}, DType::kBF16, 1);
  for (const auto path : {cpu::Bf16Path::kThroughF32, cpu::bf16_path()}) {
    const ref::Bf16PathScope scope(path);
    Context ctx = cpu_context(1);
    EXPECT_EQ(pack_linear(ctx, {{weight}}, {}, DType::kBF16).packed->bytes(), weight.bytes());
  }
}

TEST(LinearChecks, NameWhatIsWrong) {
  Context ctx = cpu_context(1);
  const Tensor weight = ref::random_tensor({8, 4}, DType::kF32, 1);
  const LinearWeights weights = pack_linear(ctx, {{weight}}, {}, DType::kF32);
  const Tensor x = ref::random_tensor({2, 4}, DType::kF32, 1);
  const Tensor out = ref::random_tensor({2, 8}, DType::kF32, 1);
  const auto message = [](const std::function<void()>& call) -> std::string {
    try {
      call();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInternal);
      return error.what();
    }
    return "nothing thrown";
  };
  EXPECT_EQ(message([&] { linear(ctx, x.slice(1, 0, 3), weights, {}, out); }),
            "linear: x is f32[2, 3], but [2, 4] is needed");
  EXPECT_EQ(message([&] { linear(ctx, x, weights, {}, out.slice(0, 0, 1)); }),
            "linear: out is f32[1, 8], but [2, 8] is needed");
  EXPECT_EQ(message([&] { linear(ctx, to_dtype(x, DType::kBF16), weights, {}, out); }),
            "linear: x is bf16[2, 4], but activations must all be f32 or all bf16");
  EXPECT_EQ(message([&] {
              linear(ctx, x, weights, {Activation::kNone, x, {}}, out);
            }),
            "linear: gate is f32[2, 4], but a contiguous f32[8] is needed");
  Epilogue heads;
  const auto with_heads = [&](int64_t dim, int64_t rows, int64_t q_heads = 2, int64_t k_heads = 2) {
    const Tensor vector = ref::random_tensor({dim}, DType::kF32, 1);
    heads.norm = {vector, vector, 1e-6f, angles_of(rows, dim / 2, 1), q_heads, k_heads};
    const LinearWeights qkv =
        pack_linear(ctx, {{ref::random_tensor({12, 4}, DType::kF32, 1)}}, {}, DType::kF32);
    return message([&] {
      linear(ctx, x, qkv, heads, ref::random_tensor({2, 12}, DType::kF32, 1));
    });
  };
  EXPECT_EQ(with_heads(2, 2), "nothing thrown");
  EXPECT_EQ(with_heads(2, 3), "linear: cos is f32[3, 1], but a contiguous f32[2, 1] is needed");
  EXPECT_EQ(with_heads(2, 2, 5, 1), "nothing thrown");
  const auto no_heads = [](int64_t q_heads, int64_t k_heads, int64_t dim) {
    return fmt::format(
        "linear: 12 columns do not begin with {} heads of q and {} of k, each {} columns, an even "
        "number",
        q_heads, k_heads, dim);
  };
  EXPECT_EQ(with_heads(8, 2), no_heads(2, 2, 8));
  EXPECT_EQ(with_heads(1, 2), no_heads(2, 2, 1));
  EXPECT_EQ(with_heads(2, 2, 5, 2), no_heads(5, 2, 2));
  EXPECT_EQ(with_heads(2, 2, -1, 3), no_heads(-1, 3, 2));
  EXPECT_EQ(with_heads(2, 2, 0, 0), no_heads(0, 0, 2));
  heads.activation = Activation::kSilu;
  EXPECT_EQ(with_heads(2, 2),
            "linear: a norm of heads goes with no activation, gate or residual; leave them out");
  EXPECT_EQ(message([&] { pack_linear(ctx, {}, {}, DType::kF32); }),
            "pack_linear: no weights given");
  EXPECT_EQ(message([&] { pack_linear(ctx, {{weight}}, {{x}}, DType::kF32); }),
            "pack_linear: bias is f32[2, 4], but floats [8] are needed");
}

TEST(LinearRows, NoneIsFine) {
  Context ctx = cpu_context(2);
  const Tensor weight = ref::random_tensor({8, 4}, DType::kF32, 1);
  const LinearWeights weights = pack_linear(ctx, {{weight}}, {}, DType::kF32);
  const Tensor x = ref::random_tensor({1, 4}, DType::kF32, 1).slice(0, 0, 0);
  const Tensor out = ref::random_tensor({1, 8}, DType::kF32, 1).slice(0, 0, 0);
  EXPECT_NO_THROW(linear(ctx, x, weights, {}, out));
}

}  // namespace
}  // namespace flux
