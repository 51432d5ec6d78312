#include <cmath>
#include <tuple>
#include <vector>

#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/row_reference.h"
#include "support/error.h"

namespace flux {
namespace {

namespace ref = row_reference;

constexpr double kTolerance = 3e-6;

enum class Layout { kContiguous, kStrided, kInPlace };

std::string name_of_layout(Layout layout) {
  const char* names[] = {"contiguous", "strided", "in_place"};
  return names[static_cast<int>(layout)];
}

/// Input and output of the rows of an op in one of the layouts it must take.
struct Rows {
  Rows(int64_t rows, int64_t n, DType dtype, Layout layout, unsigned seed, double mean = 0.0,
       double spread = 1.0)
      : x(layout == Layout::kStrided ? ref::strided(rows, n, 6, dtype)
                                     : Tensor::allocate({rows, n}, dtype)),
        out(layout == Layout::kStrided      ? ref::strided(rows, n, 10, dtype)
            : layout == Layout::kContiguous ? Tensor::allocate({rows, n}, dtype)
                                            : x) {
    ref::fill(x, seed, mean, spread);
  }
  Tensor x;
  Tensor out;
};

class RowNorm : public testing::TestWithParam<std::tuple<cpu::Isa, DType, int64_t, Layout>> {
 protected:
  cpu::Isa isa() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }
  int64_t n() const { return std::get<2>(GetParam()); }
  Layout layout() const { return std::get<3>(GetParam()); }

  Context ctx_{backend_for(Device{}), 2};
};

TEST_P(RowNorm, LayerNormIsTheReference) {
  const ref::IsaScope scope(isa());
  for (int flags = 0; flags < 8; ++flags) {
    LayerNormParams params;
    if (flags & 1) params.weight = ref::random({n()}, DType::kF32, 2);
    if (flags & 2) params.bias = ref::random({n()}, DType::kF32, 3);
    if (flags & 4) {
      params.scale = ref::random({n()}, DType::kF32, 4);
      params.shift = ref::random({n()}, DType::kF32, 5);
    }
    const Rows rows(5, n(), dtype(), layout(), 1, 0.5, 2.0);
    const ref::Values expected = ref::layer_norm(rows.x, params);
    layer_norm(ctx_, rows.x, params, rows.out);
    ref::expect_close(rows.out, expected, kTolerance);
  }
}

TEST_P(RowNorm, RmsNormIsTheReference) {
  const ref::IsaScope scope(isa());
  const Rows rows(5, n(), dtype(), layout(), 1);
  const Tensor weight = ref::random({n()}, DType::kF32, 2);
  const ref::Values expected = ref::rms_norm(rows.x, weight, 1e-6f);
  rms_norm(ctx_, rows.x, weight, 1e-6f, rows.out);
  ref::expect_close(rows.out, expected, kTolerance);
}

TEST_P(RowNorm, ExtremeRowsStayFinite) {
  const ref::IsaScope scope(isa());
  const Tensor weight = ref::random({n()}, DType::kF32, 2);
  for (const double value : {0.0, 3.0, -65504.0, 1e-40, 1e15}) {
    const Rows rows(2, n(), dtype(), layout(), 1, value, 0.0);
    const ref::Values centred = ref::layer_norm(rows.x, {});
    const ref::Values normed = ref::rms_norm(rows.x, weight, 1e-6f);
    const Tensor out = Tensor::allocate(rows.x.shape(), dtype());
    rms_norm(ctx_, rows.x, weight, 1e-6f, out);
    ref::expect_close(out, normed, kTolerance);
    layer_norm(ctx_, rows.x, {}, rows.out);
    // A mean is exact to a part in 1e7 of the value; eps lifts that by a factor of 1000.
    for (const double y : ref::values_of(rows.out)) ASSERT_TRUE(std::abs(y) <= 1.001) << value;
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, RowNorm,
    testing::Combine(testing::ValuesIn(ref::isas()), testing::Values(DType::kF32, DType::kBF16),
                     testing::Values(1, 7, 16, 20, 65, 768, 3077),
                     testing::Values(Layout::kContiguous, Layout::kStrided, Layout::kInPlace)),
    [](const auto& test) {
      return ref::name_of_isa(std::get<0>(test.param)) + "_" +
             std::string(name_of(std::get<1>(test.param))) + "_" +
             std::to_string(std::get<2>(test.param)) + "_" +
             name_of_layout(std::get<3>(test.param));
    });

class TypedNorm : public testing::TestWithParam<std::tuple<cpu::Isa, DType>> {
 protected:
  cpu::Isa isa() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }

  Context ctx_{backend_for(Device{}), 2};
};

TEST_P(TypedNorm, LayerNormKeepsItsPrecisionFarFromZero) {
  const ref::IsaScope scope(isa());
  const Tensor x = ref::random({4, 768}, dtype(), 1, 1000.0, 1.0);
  const Tensor out = Tensor::allocate(x.shape(), dtype());
  layer_norm(ctx_, x, {}, out);
  ref::expect_close(out, ref::layer_norm(x, {}), 3e-4);
}

TEST_P(TypedNorm, RmsNormRopeIsTheReference) {
  const ref::IsaScope scope(isa());
  for (const int64_t head_dim : {2, 8, 20, 64, 128, 1024}) {
    const int64_t tokens = 37;
    const int64_t heads = 3;
    // Queries, keys and values of all heads in one buffer, as a fused projection makes them.
    const Tensor whole = ref::random({tokens, 3 * heads * head_dim}, dtype(), 1);
    const Tensor before = ref::copy_of(whole);
    const int64_t width = heads * head_dim;
    const Tensor keys = whole.slice(1, width, 2 * width).split_last(heads, head_dim);
    const Tensor weight = ref::random({head_dim}, DType::kF32, 2, 1.0, 0.2);
    const RopeTable rope = ref::rope_of_all_angles(tokens, head_dim / 2);
    const ref::Values expected = ref::rms_norm_rope(keys, weight, 1e-6f, rope);
    rms_norm_rope(ctx_, keys, weight, 1e-6f, rope);
    ref::expect_close(keys, expected, kTolerance);
    EXPECT_TRUE(ref::same_bytes(whole.slice(1, 0, width), before.slice(1, 0, width)));
    EXPECT_TRUE(ref::same_bytes(whole.slice(1, 2 * width, 3 * width),
                                before.slice(1, 2 * width, 3 * width)));
  }
}

TEST(RopeAngles, ArePositionsTimesFrequenciesOfAnyBaseAndNumberOfAxes) {
  Context ctx(backend_for(Device{}), 1);
  for (const std::vector<int64_t>& dims : {std::vector<int64_t>{8}, {16, 56, 56}, {2, 4, 6, 8}}) {
    int64_t pairs = 0;
    for (const int64_t dim : dims) pairs += dim / 2;
    const Tensor positions = ref::random({9, std::ssize(dims)}, DType::kF32, 1, 0.0, 30.0);
    const Tensor cos = Tensor::allocate({9, pairs}, DType::kF32);
    const Tensor sin = Tensor::allocate({9, pairs}, DType::kF32);
    for (const double theta : {10000.0, 2000.0}) {
      rope_angles(ctx, positions, {dims, theta}, cos, sin);
      for (int64_t token = 0; token < 9; ++token) {
        int64_t at = 0;
        for (size_t axis = 0; axis < dims.size(); ++axis) {
          for (int64_t i = 0; i < dims[axis] / 2; ++i, ++at) {
            const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(dims[axis]);
            const double angle =
                ref::get(positions[token], static_cast<int64_t>(axis)) / std::pow(theta, exponent);
            ASSERT_NEAR(ref::get(cos[token], at), std::cos(angle), 1e-6) << theta;
            ASSERT_NEAR(ref::get(sin[token], at), std::sin(angle), 1e-6) << theta;
          }
        }
      }
    }
  }
}

struct GroupCase {
  Shape shape;
  int64_t groups;
};

TEST_P(TypedNorm, GroupNormIsTheReference) {
  const ref::IsaScope scope(isa());
  const GroupCase cases[] = {{{1, 1, 32}, 32},  {{5, 3, 20}, 4},   {{64, 64}, 32},
                             {{63, 65, 32}, 8}, {{9, 9, 512}, 32}, {{700, 33}, 3}};
  for (const GroupCase& c : cases) {
    for (const Activation activation : {Activation::kNone, Activation::kSilu}) {
      GroupNormParams params;
      params.groups = c.groups;
      params.weight = ref::random({c.shape[c.shape.rank() - 1]}, DType::kF32, 2);
      params.bias = ref::random({c.shape[c.shape.rank() - 1]}, DType::kF32, 3);
      params.activation = activation;
      const Tensor x = ref::random(c.shape, dtype(), 1, 0.5, 2.0);
      const ref::Values expected = ref::group_norm(x, params);
      const Tensor out = Tensor::allocate(c.shape, dtype());
      group_norm(ctx_, x, params, out);
      ref::expect_close(out, expected, kTolerance);
      group_norm(ctx_, x, params, x);
      EXPECT_TRUE(ref::same_bytes(x, out));
    }
  }
}

TEST_P(TypedNorm, GroupNormKeepsItsPrecisionFarFromZero) {
  const ref::IsaScope scope(isa());
  GroupNormParams params;
  params.groups = 4;
  params.weight = ref::random({64}, DType::kF32, 2);
  params.bias = ref::random({64}, DType::kF32, 3);
  for (const double mean : {1000.0, -50.0}) {
    const Tensor x = ref::random({50, 60, 64}, dtype(), 1, mean, 1.0);
    const Tensor out = Tensor::allocate(x.shape(), dtype());
    group_norm(ctx_, x, params, out);
    ref::expect_close(out, ref::group_norm(x, params), 1e-6 * std::abs(mean));
  }
}

TEST_P(TypedNorm, ThreadsDoNotChangeTheBytes) {
  const ref::IsaScope scope(isa());
  const Tensor x = ref::random({313, 384}, dtype(), 1, 0.3, 2.0);
  const Tensor weight = ref::random({384}, DType::kF32, 2);
  const Tensor head_weight = ref::random({128}, DType::kF32, 4);
  const RopeTable rope = ref::rope_of_all_angles(313, 64);
  GroupNormParams group{weight, ref::random({384}, DType::kF32, 3), 32, 1e-6f, Activation::kSilu};
  std::vector<Tensor> first;
  for (int threads = 1; threads <= 5; ++threads) {
    Context ctx(backend_for(Device{}), threads);
    std::vector<Tensor> results;
    for (int i = 0; i < 4; ++i) results.push_back(ref::copy_of(x));
    layer_norm(ctx, x, {weight, {}, {}, {}, 1e-6f}, results[0]);
    rms_norm(ctx, x, weight, 1e-6f, results[1]);
    rms_norm_rope(ctx, results[2].split_last(3, 128), head_weight, 1e-6f, rope);
    group_norm(ctx, x, group, results[3]);
    if (threads == 1) first = results;
    for (size_t i = 0; i < results.size(); ++i) {
      EXPECT_TRUE(ref::same_bytes(results[i], first[i])) << "op " << i << ", threads " << threads;
    }
  }
}

TEST_P(TypedNorm, RowsDoNotDependOnOtherRows) {
  const ref::IsaScope scope(isa());
  const Tensor x = ref::random({100, 768}, dtype(), 1);
  const Tensor weight = ref::random({768}, DType::kF32, 2);
  const Tensor all = Tensor::allocate(x.shape(), dtype());
  const Tensor one = Tensor::allocate({1, 768}, dtype());
  rms_norm(ctx_, x, weight, 1e-6f, all);
  rms_norm(ctx_, x.slice(0, 99, 100), weight, 1e-6f, one);
  EXPECT_TRUE(ref::same_bytes(one, all.slice(0, 99, 100)));
}

INSTANTIATE_TEST_SUITE_P(All, TypedNorm,
                         testing::Combine(testing::ValuesIn(ref::isas()),
                                          testing::Values(DType::kF32, DType::kBF16)),
                         [](const auto& test) {
                           return ref::name_of_isa(std::get<0>(test.param)) + "_" +
                                  std::string(name_of(std::get<1>(test.param)));
                         });

template <typename F>
void expect_internal_error(const F& f, const std::string& words) {
  try {
    f();
    FAIL() << "no error; expected: " << words;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInternal);
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
  }
}

TEST(NormArguments, AreChecked) {
  Context ctx(backend_for(Device{}), 1);
  const Tensor x = ref::random({4, 8}, DType::kF32, 1);
  const Tensor narrow = ref::random({4, 6}, DType::kF32, 1);
  const Tensor half = ref::random({4, 8}, DType::kBF16, 1);
  const Tensor eight = ref::random({8}, DType::kF32, 1);
  const Tensor six = ref::random({6}, DType::kF32, 1);
  expect_internal_error([&] { layer_norm(ctx, x, {}, narrow); }, "out is f32[4, 6]");
  expect_internal_error([&] { layer_norm(ctx, x, {}, half); }, "all be f32 or all bf16");
  expect_internal_error([&] { layer_norm(ctx, x, {six, {}, {}, {}, 1e-6f}, x); }, "weight");
  expect_internal_error([&] { layer_norm(ctx, x, {{}, {}, eight, {}, 1e-6f}, x); }, "shift");
  expect_internal_error([&] { rms_norm(ctx, x, half[0], 1e-6f, x); }, "weight is bf16[8]");
  expect_internal_error([&] { group_norm(ctx, x, {eight, eight, 3}, x); }, "3 groups");
  expect_internal_error([&] { group_norm(ctx, x.slice(1, 0, 4), {six, six, 1}, narrow); }, "out");
  expect_internal_error(
      [&] {
        group_norm(ctx, x, {eight, eight, 2, 1e-6f, Activation::kRelu}, x);
      },
      "none or SiLU");
  const Tensor odd = ref::random({4, 2, 3}, DType::kF32, 1);
  expect_internal_error([&] { rms_norm_rope(ctx, odd, six, 1e-6f, {}); }, "even");
  const Tensor heads = ref::random({4, 2, 8}, DType::kF32, 1);
  expect_internal_error([&] { rms_norm_rope(ctx, heads, eight, 1e-6f, {x, x}); }, "cos");
}

}  // namespace
}  // namespace flux
