// Linears whose encoded weights are multiplied as int8: they are those of the decoded weights and
// of rows that are rounded to int8 in blocks of 32.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "ops/cpu/isa.h"
#include "ops/product_reference.h"
#include "ops/random_encoded.h"
#include "ops/registry.h"
#include "ops/row_reference.h"

namespace flux {
namespace {

namespace ref = product_reference;
using row_reference::isas;
using row_reference::IsaScope;
using row_reference::name_of_isa;

constexpr DType kBF16 = DType::kBF16;

/// x as the kernels round it: integers up to 127 times a scale for each block.
Tensor rounded(const ConstTensor& x) {
  constexpr int64_t kBlock = 32;
  const Tensor result = Tensor::allocate(x.shape(), DType::kF32);
  const int64_t n = x.size(1);
  for (int64_t begin = 0; begin < x.numel(); begin += kBlock) {
    const int64_t from = begin / n * x.stride(0) + begin % n;
    double largest = 0;
    for (int64_t i = 0; i < kBlock; ++i) {
      largest = std::max(largest, std::abs(ref::get(x, from + i)));
    }
    const double scale = largest / 127;
    for (int64_t i = 0; i < kBlock; ++i) {
      const double value = ref::get(x, from + i);
      ref::set(result, begin + i, scale > 0 ? std::nearbyint(value / scale) * scale : 0);
    }
  }
  return result;
}

/// Stacked weights, all decoded, [rows of all, depth].
Tensor decoded(std::span<const StoredTensor> weights) {
  int64_t rows = 0;
  for (const StoredTensor& weight : weights) rows += weight.shape[0];
  const Tensor all = Tensor::allocate({rows, weights[0].shape[1]}, DType::kF32);
  int64_t first = 0;
  for (const StoredTensor& weight : weights) {
    const int64_t last = first + weight.shape[0];
    decode_rows(weight, 0, weight.shape[0], all.slice(0, first, last));
    first = last;
  }
  return all;
}

/// The instruction sets that have int8 products.
std::vector<cpu::Isa> int8_isas() {
  std::vector<cpu::Isa> found;
  for (const cpu::Isa isa : isas()) {
    const IsaScope scope(isa);
    if (cpu::kernels().int8.run != nullptr) found.push_back(isa);
  }
  return found;
}

class Int8Linear : public ::testing::TestWithParam<Encoding> {
 protected:
  void SetUp() override {
    if (int8_isas().empty()) GTEST_SKIP() << "this processor has no dot products of int8";
  }

  int64_t block_values() const { return info_of(GetParam()).block_values; }
  /// Two weights, which fill no whole panel: one of the encoding, one of another.
  std::vector<StoredTensor> weights(int64_t depth) const {
    const std::array halves = {Encoding::kQ2K, Encoding::kQ3K, Encoding::kQ6K};
    const bool is_half = std::find(halves.begin(), halves.end(), GetParam()) != halves.end();
    Encoding other = block_values() > 32 ? Encoding::kQ8_0 : Encoding::kQ4_1;
    if (GetParam() == Encoding::kQ4_1) other = Encoding::kQ5_0;
    if (is_half) other = GetParam() == Encoding::kQ2K ? Encoding::kQ6K : Encoding::kQ2K;
    return {random_encoded(GetParam(), 41, depth, 1), random_encoded(other, 28, depth, 2)};
  }
};

constexpr int64_t kColumns = 41 + 28;

/// The result for rows of x, with a bias for the first weight alone.
Tensor run(Context& ctx, std::span<const StoredTensor> weights, const ConstTensor& x,
           const Epilogue& epilogue = {}) {
  const ConstTensor bias = ref::random_tensor({weights[0].shape[0]}, DType::kF32, 3);
  std::vector<ConstTensor> biases(weights.size());
  biases[0] = bias;
  const LinearWeights packed = pack_linear(ctx, weights, biases, kBF16);
  const Tensor out = Tensor::allocate({x.size(0), packed.out_features}, kBF16);
  linear(ctx, x, packed, epilogue, out);
  return out;
}

ConstTensor whole_bias() {
  const Tensor bias = Tensor::allocate({kColumns}, DType::kF32);
  const Tensor first = ref::random_tensor({41}, DType::kF32, 3);
  for (int64_t i = 0; i < kColumns; ++i) ref::set(bias, i, i < 41 ? ref::get(first, i) : 0);
  return bias;
}

TEST_P(Int8Linear, IsTheProductOfDecodedWeightsAndRoundedRows) {
  Epilogue gated;
  gated.activation = Activation::kGeluTanh;
  gated.gate = ref::random_tensor({kColumns}, DType::kF32, 5);
  for (const cpu::Isa isa : int8_isas()) {
    const IsaScope scope(isa);
    Context ctx(backend_for(Device{}), 2);
    for (const int64_t depth : {32, 256, 544, 768, 800}) {
      if (depth % block_values() != 0) continue;
      const std::vector<StoredTensor> stored = weights(depth);
      const Tensor plain = decoded(stored);
      for (const int64_t rows : {1, 5, 6, 20}) {
        const ConstTensor x = ref::random_rows(rows, depth, 7, kBF16, 4);
        gated.residual = ref::random_rows(rows, kColumns, 3, kBF16, 6);
        for (const Epilogue& epilogue : {Epilogue{}, gated}) {
          const Tensor out = run(ctx, stored, x, epilogue);
          const ref::Difference difference =
              ref::compare(out, ref::linear(rounded(x), plain, whole_bias(), epilogue));
          EXPECT_LE(difference.largest, ref::tolerance(kBF16) * difference.scale)
              << name_of_isa(isa) << ", " << rows << "x" << depth;
        }
      }
    }
  }
}

TEST_P(Int8Linear, IsNearTheExactProduct) {
  Context ctx(backend_for(Device{}), 2);
  const std::vector<StoredTensor> stored = {random_encoded(GetParam(), 70, 1024, 1)};
  const ConstTensor x = ref::random_rows(24, 1024, 0, kBF16, 4);
  const Tensor out = run(ctx, stored, x);
  const ConstTensor bias = ref::random_tensor({70}, DType::kF32, 3);
  const std::vector<double> exact = ref::linear(x, decoded(stored), bias, {});
  double squares = 0;
  for (const double value : exact) squares += value * value;
  const double rms = std::sqrt(squares / static_cast<double>(exact.size()));
  EXPECT_LE(ref::compare(out, exact).rms, 0.01 * rms);
}

TEST_P(Int8Linear, DoesNotDependOnThreadsOrOtherRows) {
  Context one(backend_for(Device{}), 1);
  Context two(backend_for(Device{}), 2);
  const std::vector<StoredTensor> stored = weights(768);
  const int64_t rows = 1541;  // more than are quantised together
  const ConstTensor x = ref::random_rows(rows, 768, 0, kBF16, 4);
  const Tensor all = run(one, stored, x);
  EXPECT_TRUE(ref::same_bytes(all, run(two, stored, x)));
  for (const int64_t first : {0, 7, 1535, 1537}) {
    for (const int64_t count : {1, 4}) {
      const Tensor some = run(one, stored, x.slice(0, first, first + count));
      EXPECT_TRUE(ref::same_bytes(all.slice(0, first, first + count), some));
    }
  }
}

TEST_P(Int8Linear, KeepsWhatIsNotFiniteInItsRow) {
  Context ctx(backend_for(Device{}), 1);
  const std::vector<StoredTensor> stored = weights(768);
  const Tensor x = ref::random_rows(3, 768, 0, kBF16, 4);
  const Tensor finite = run(ctx, stored, x);
  ref::set(x, 768 + 5, std::numeric_limits<double>::quiet_NaN());
  ref::set(x, 2 * 768 + 9, std::numeric_limits<double>::infinity());
  const Tensor out = run(ctx, stored, x);
  EXPECT_TRUE(ref::same_bytes(finite[0], out[0]));
  for (int64_t i = kColumns; i < 3 * kColumns; ++i) {
    EXPECT_FALSE(std::isfinite(ref::get(out, i))) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Encodings, Int8Linear,
                         ::testing::Values(Encoding::kQ4_0, Encoding::kQ4_1, Encoding::kQ5_0,
                                           Encoding::kQ5_1, Encoding::kQ8_0, Encoding::kQ4K,
                                           Encoding::kQ5K, Encoding::kQ2K, Encoding::kQ3K,
                                           Encoding::kQ6K),
                         [](const auto& test) { return std::string(info_of(test.param).name); });

}  // namespace
}  // namespace flux
