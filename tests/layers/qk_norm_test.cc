#include "layers/qk_norm.h"

#include <cmath>
#include <limits>

#include "ops/registry.h"
#include "ops/row_reference.h"

namespace flux {
namespace {

namespace ref = row_reference;

constexpr int64_t kHeadDim = 128;
constexpr float kEps = 1e-6f;

class QkNormTest : public testing::TestWithParam<DType> {
 protected:
  QkNorm norm(const ConstTensor& weight, float factor = 1.0f) { return {ctx_, weight, factor}; }

  /// The largest size of a product of a row of q and one of k, [rows, head_dim], after the norms.
  double largest_of(const Tensor& q, const QkNorm& norm_q, const Tensor& k, const QkNorm& norm_k) {
    const int64_t rows = q.size(0);
    const RopeTable rope = ref::rope_of_all_angles(rows, kHeadDim / 2);
    rms_norm_rope(ctx_, q.split_last(1, kHeadDim), norm_q.weight, kEps, rope);
    rms_norm_rope(ctx_, k.split_last(1, kHeadDim), norm_k.weight, kEps, rope);
    const ref::Values q_values = ref::values_of(q);
    const ref::Values k_values = ref::values_of(k);
    double largest = 0;
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < rows; ++j) {
        double sum = 0;
        for (int64_t c = 0; c < kHeadDim; ++c) {
          sum += q_values[i * kHeadDim + c] * k_values[j * kHeadDim + c];
        }
        largest = std::max(largest, std::abs(sum));
      }
    }
    return largest;
  }

  Context ctx_{backend_for(Device{}), 1};
};

TEST_P(QkNormTest, NoProductIsLargerThanSaid) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    const QkNorm q = norm(ref::random({kHeadDim}, DType::kF32, seed, 1.0, 1.0), 0.13f);
    const QkNorm k = norm(ref::random({kHeadDim}, DType::kF32, seed + 100, -1.0, 2.0));
    // Values of all sizes, so that few of them make up a row's length.
    const Tensor x = ref::random({40, kHeadDim}, GetParam(), seed + 200);
    const Tensor y = ref::random({40, kHeadDim}, GetParam(), seed + 300);
    for (const Tensor* tensor : {&x, &y}) {
      ref::for_each_element(*tensor, [](const Tensor& row, int64_t i) {
        ref::set(row, i, std::pow(ref::get(row, i), 9));
      });
    }
    const double largest = largest_of(x, q, y, k);
    EXPECT_LE(largest, largest_product(q, k)) << "seed " << seed;
  }
}

TEST_P(QkNormTest, TheLargestIsReached) {
  const Tensor weight_q = ref::random({kHeadDim}, DType::kF32, 1);
  const Tensor weight_k = ref::random({kHeadDim}, DType::kF32, 2);
  ref::set(weight_q, 70, -9.0);
  ref::set(weight_k, 71, 7.0);  // of the same pair: some rotation lays one onto the other
  const QkNorm q = norm(weight_q, 0.13f);
  const QkNorm k = norm(weight_k);
  const Tensor x = ref::random({64, kHeadDim}, GetParam(), 3);
  const Tensor y = ref::random({64, kHeadDim}, GetParam(), 4);
  for (int64_t row = 0; row < 64; ++row) {
    ref::set(x[row], 70, 1e4);
    ref::set(y[row], 71, -1e4);
  }
  const double largest = largest_of(x, q, y, k);
  EXPECT_LE(largest, largest_product(q, k));
  EXPECT_GE(largest, 0.96 * largest_product(q, k));
}

TEST_P(QkNormTest, NothingIsSaidOfWeightsThatAreNotFinite) {
  const float infinity = std::numeric_limits<float>::infinity();
  const QkNorm finite = norm(ref::random({kHeadDim}, DType::kF32, 1));
  for (const float value : {infinity, -infinity, std::nanf("")}) {
    for (const int64_t at : {0, 71, 127}) {
      const Tensor weight = ref::random({kHeadDim}, DType::kF32, 2);
      ref::set(weight, at, value);
      EXPECT_EQ(largest_product(norm(weight), finite), infinity) << value << " at " << at;
      EXPECT_EQ(largest_product(finite, norm(weight)), infinity) << value << " at " << at;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, QkNormTest, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& test) { return std::string(name_of(test.param)); });

}  // namespace
}  // namespace flux
