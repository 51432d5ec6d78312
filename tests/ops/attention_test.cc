#include <limits>
#include <tuple>

#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/row_reference.h"
#include "support/error.h"

namespace flux {
namespace {

namespace ref = row_reference;

struct AttentionCase {
  int64_t q_tokens;
  int64_t k_tokens;
  int64_t heads;
  int64_t head_dim;
};

constexpr AttentionCase kCases[] = {
    {1, 1, 1, 8},     {1, 300, 2, 20},  {7, 5, 3, 20},     {77, 77, 2, 64},  {64, 64, 1, 32},
    {33, 130, 2, 16}, {100, 257, 1, 9}, {50, 600, 1, 128}, {13, 40, 1, 512}, {5, 11, 1, 1024},
};

/// Queries, keys and values as strided views of one [tokens, 3 * heads * head_dim] buffer.
struct Inputs {
  Inputs(const AttentionCase& c, DType dtype, double spread = 1.0) {
    const int64_t width = c.heads * c.head_dim;
    const Tensor all = Tensor::allocate({std::max(c.q_tokens, c.k_tokens), 3 * width}, dtype);
    ref::fill(all, 1, 0.0, spread);
    q = all.slice(1, 0, width).slice(0, 0, c.q_tokens).split_last(c.heads, c.head_dim);
    k = all.slice(1, width, 2 * width).slice(0, 0, c.k_tokens).split_last(c.heads, c.head_dim);
    v = all.slice(1, 2 * width, 3 * width).slice(0, 0, c.k_tokens).split_last(c.heads, c.head_dim);
    // Rows of the result are strided too, as when text and image share a buffer with the MLP's.
    out = ref::strided(c.q_tokens, width, 6, dtype).split_last(c.heads, c.head_dim);
  }
  Tensor q, k, v, out;
};

class Attention : public testing::TestWithParam<std::tuple<cpu::Isa, DType>> {
 protected:
  DType dtype() const { return std::get<1>(GetParam()); }
  /// Weights are rounded to bfloat16 before the product with v where the processor multiplies
  /// bfloat16: their errors of 2^-9 average out over the keys, but for few keys they do not.
  double tolerance() const {
    return dtype() == DType::kBF16 && std::get<0>(GetParam()) == cpu::Isa::kAvx512Bf16 ? 5e-3
                                                                                       : 4e-6;
  }

  ref::IsaScope isa_{std::get<0>(GetParam())};
  Context ctx_{backend_for(Device{}), 2};
};

TEST_P(Attention, IsTheReference) {
  for (const AttentionCase& c : kCases) {
    SCOPED_TRACE(testing::Message()
                 << c.q_tokens << " x " << c.k_tokens << " x " << c.heads << " x " << c.head_dim);
    for (const bool causal : {false, true}) {
      for (const bool biased : {false, true}) {
        const Inputs in(c, dtype());
        AttentionOptions options;
        options.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
        options.causal = causal;
        if (biased) {
          options.relative_bias =
              ref::random({c.heads, c.q_tokens + c.k_tokens - 1}, DType::kF32, 5, 0.0, 2.0);
        }
        const ref::Values expected = ref::attention(in.q, in.k, in.v, options);
        attention(ctx_, in.q, in.k, in.v, options, in.out);
        ref::expect_close(in.out, expected, tolerance());
      }
    }
  }
}

TEST_P(Attention, TakesLargeScores) {
  // Scores of +-1e4 and more: each row's softmax is all but one-hot.
  const AttentionCase c{65, 300, 2, 64};
  const Inputs in(c, dtype(), 40.0);
  AttentionOptions options;
  options.scale = 1.0f;
  const ref::Values expected = ref::attention(in.q, in.k, in.v, options);
  attention(ctx_, in.q, in.k, in.v, options, in.out);
  // Scores are exact to 1e-3, and so are the weights' ratios; v is about 40.
  ref::expect_close(in.out, expected, 40 * 5e-3);
}

TEST_P(Attention, TakesScoresFarBelowZero) {
  // All scores of a row near -1e4: the largest decides, not zero.
  const AttentionCase c{40, 280, 1, 16};
  const Inputs in(c, dtype());
  ref::fill(in.q, 2, 25.0, 0.1);
  ref::fill(in.k, 3, -25.0, 0.001);
  AttentionOptions options;
  const ref::Values expected = ref::attention(in.q, in.k, in.v, options);
  attention(ctx_, in.q, in.k, in.v, options, in.out);
  ref::expect_close(in.out, expected, 2e-2);
}

TEST_P(Attention, NegativeAndZeroScalesWork) {
  const AttentionCase c{20, 300, 2, 24};
  for (const float scale : {-0.5f, 0.0f}) {
    const Inputs in(c, dtype());
    AttentionOptions options;
    options.scale = scale;
    const ref::Values expected = ref::attention(in.q, in.k, in.v, options);
    attention(ctx_, in.q, in.k, in.v, options, in.out);
    ref::expect_close(in.out, expected, tolerance());
  }
}

TEST_P(Attention, ScoresMayBeExponentsOfTwo) {
  const Inputs in({20, 300, 2, 24}, dtype(), 0.4);
  AttentionOptions options;
  options.scale = AttentionOptions::kLn2;
  const ref::Values expected = ref::attention(in.q, in.k, in.v, options);
  attention(ctx_, in.q, in.k, in.v, options, in.out);
  const Tensor by_scale = ref::copy_of(in.out);
  options.base = ScoreBase::kTwo;
  options.scale = 1.0f;
  options.bound = 40.0f;
  attention(ctx_, in.q, in.k, in.v, options, in.out);
  ref::expect_close(in.out, expected, tolerance());
  EXPECT_TRUE(ref::same_bytes(in.out, by_scale));
}

TEST_P(Attention, EqualKeysAverageTheValues) {
  const AttentionCase c{3, 257, 1, 32};
  const Inputs in(c, dtype());
  ref::fill(in.k, 1, 2.0, 0.0);
  ref::Values mean(32, 0.0);
  for (int64_t j = 0; j < 257; ++j) {
    for (int64_t i = 0; i < 32; ++i) mean[static_cast<size_t>(i)] += ref::get(in.v[j][0], i) / 257;
  }
  attention(ctx_, in.q, in.k, in.v, {}, in.out);
  for (int64_t i = 0; i < 3; ++i) ref::expect_close(in.out[i], mean, 1e-6);
}

TEST_P(Attention, TinyValuesStayFinite) {
  const AttentionCase c{10, 50, 1, 16};
  const Inputs in(c, dtype(), 1e-40);
  attention(ctx_, in.q, in.k, in.v, {}, in.out);
  for (const double value : ref::values_of(in.out)) ASSERT_LE(std::abs(value), 1e-38);
}

TEST_P(Attention, NanIsNotHidden) {
  const AttentionCase c{30, 300, 1, 16};
  const Inputs in(c, dtype());
  ref::set(in.q[7][0], 3, std::numeric_limits<double>::quiet_NaN());
  attention(ctx_, in.q, in.k, in.v, {}, in.out);
  for (int64_t i = 0; i < 30; ++i) {
    for (int64_t j = 0; j < 16; ++j) ASSERT_EQ(std::isnan(ref::get(in.out[i][0], j)), i == 7);
  }
}

TEST_P(Attention, CausalRowsSeeNoLaterKeys) {
  const AttentionCase c{300, 300, 1, 16};
  const Inputs in(c, dtype());
  AttentionOptions options;
  options.causal = true;
  attention(ctx_, in.q, in.k, in.v, options, in.out);
  const Tensor before = ref::copy_of(in.out.slice(0, 0, 270));
  ref::fill(in.k.slice(0, 270, 300), 8, 100.0, 10.0);
  ref::fill(in.v.slice(0, 270, 300), 9, 100.0, 10.0);
  attention(ctx_, in.q, in.k, in.v, options, in.out);
  EXPECT_TRUE(ref::same_bytes(in.out.slice(0, 0, 270), before));
}

TEST_P(Attention, ThreadsAndOtherRowsDoNotChangeTheBytes) {
  const AttentionCase c{333, 345, 3, 40};
  const Inputs in(c, dtype());
  AttentionOptions options;
  options.scale = 0.2f;
  Tensor first;
  for (int threads = 1; threads <= 5; ++threads) {
    Context ctx(backend_for(Device{}), threads);
    attention(ctx, in.q, in.k, in.v, options, in.out);
    if (threads == 1) first = ref::copy_of(in.out);
    EXPECT_TRUE(ref::same_bytes(in.out, first)) << threads;
  }
  attention(ctx_, in.q.slice(0, 100, 117), in.k, in.v, options, in.out.slice(0, 0, 17));
  EXPECT_TRUE(ref::same_bytes(in.out.slice(0, 0, 17), first.slice(0, 100, 117)));
}

TEST_P(Attention, AllocatesNothingOnceWarm) {
  const AttentionCase c{200, 200, 2, 64};
  const Inputs in(c, dtype());
  attention(ctx_, in.q, in.k, in.v, {}, in.out);
  const size_t bytes = ctx_.workspace().reserved_bytes();
  attention(ctx_, in.q, in.k, in.v, {}, in.out);
  EXPECT_EQ(ctx_.workspace().reserved_bytes(), bytes);
}

INSTANTIATE_TEST_SUITE_P(All, Attention,
                         testing::Combine(testing::ValuesIn(ref::isas()),
                                          testing::Values(DType::kF32, DType::kBF16)),
                         [](const auto& test) {
                           return ref::name_of_isa(std::get<0>(test.param)) + "_" +
                                  std::string(name_of(std::get<1>(test.param)));
                         });

TEST(AttentionArguments, AreChecked) {
  Context ctx(backend_for(Device{}), 1);
  const Inputs in({4, 6, 2, 8}, DType::kF32);
  EXPECT_THROW(attention(ctx, in.q, in.k, in.v.slice(0, 0, 5), {}, in.out), Error);
  EXPECT_THROW(attention(ctx, in.q, in.k, in.v, {}, in.out.slice(0, 0, 3)), Error);
  EXPECT_THROW(attention(ctx, in.q, in.k, in.v, {}, in.q), Error);
  EXPECT_THROW(attention(ctx, in.q, in.k.slice(0, 0, 0), in.v.slice(0, 0, 0), {}, in.out), Error);
  AttentionOptions options;
  options.relative_bias = ref::random({2, 8}, DType::kF32, 1);
  EXPECT_THROW(attention(ctx, in.q, in.k, in.v, options, in.out), Error);
  options.relative_bias = ref::random({2, 9}, DType::kF32, 1);
  EXPECT_NO_THROW(attention(ctx, in.q, in.k, in.v, options, in.out));
  options.base = ScoreBase::kTwo;  // goes with no bias and no scale
  EXPECT_THROW(attention(ctx, in.q, in.k, in.v, options, in.out), Error);
  options.relative_bias = Tensor();
  EXPECT_NO_THROW(attention(ctx, in.q, in.k, in.v, options, in.out));
  options.scale = 0.5f;
  EXPECT_THROW(attention(ctx, in.q, in.k, in.v, options, in.out), Error);
}

}  // namespace
}  // namespace flux
