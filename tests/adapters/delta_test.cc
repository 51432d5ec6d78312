#include "adapters/delta.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "made_file.h"

namespace flux {
namespace {

using testing::find_change;
using testing::MadeFile;
using testing::product;
using testing::says;

constexpr int64_t kWidth = 8;
const std::string kQkv = "lora_unet_double_blocks_0_img_attn_qkv";

void expect_values(const ConstTensor& found, const std::vector<double>& expected, double scale) {
  ASSERT_EQ(found.numel(), static_cast<int64_t>(expected.size()));
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(found.data<float>()[i], scale * expected[i], 1e-5) << i;
  }
}

/// Made weights of [rows, columns].
Tensor made_weights(int64_t rows, int64_t columns) {
  const Tensor weights = Tensor::allocate({rows, columns}, DType::kF32);
  for (int64_t i = 0; i < weights.numel(); ++i) {
    weights.data<float>()[i] = std::sin(0.7f * static_cast<float>(i) + 0.3f);
  }
  return weights;
}

TEST(Delta, OfTheMlpInLinear1) {
  const std::string name = "lora_unet_single_blocks_0_linear1";
  MadeFile file;
  file.add_pair(name, 7 * kWidth, kWidth, 2).add(name + ".alpha", {}, {1});
  const Adapter adapter = file.read();
  const Change& mlp = *find_change(adapter, "single_transformer_blocks.0.proj_mlp");
  EXPECT_EQ(mlp.rows(), 4 * kWidth);
  expect_values(delta(mlp),
                product(file.values(name + ".lora_up.weight"),
                        file.values(name + ".lora_down.weight"), 3 * kWidth, 4 * kWidth, 2),
                0.5);
}

TEST(Delta, OfTheSwappedHalves) {
  const std::string name = "lora_unet_final_layer_adaLN_modulation_1";
  MadeFile file;
  file.add_pair(name, 2 * kWidth, kWidth, 2);
  const Adapter adapter = file.read();
  for (const int64_t begin : {int64_t{0}, kWidth}) {
    const Change& half = *find_change(adapter, "norm_out.linear", begin);
    expect_values(delta(half),
                  product(file.values(name + ".lora_up.weight"),
                          file.values(name + ".lora_down.weight"), kWidth - begin, kWidth, 2),
                  1);
  }
}

TEST(Delta, OfAKroneckerProductThatIsFused) {
  MadeFile file;
  file.add(kQkv + ".lokr_w1", {6, 2}).add(kQkv + ".lokr_w2", {4, 4});
  const Adapter adapter = file.read();
  const Change& value = *find_change(adapter, "transformer_blocks.0.attn.to_v");
  std::vector<double> expected;
  for (int64_t i = 2 * kWidth; i < 3 * kWidth; ++i) {
    for (int64_t j = 0; j < kWidth; ++j) {
      expected.push_back(
          double{file.values(kQkv + ".lokr_w1")[static_cast<size_t>(i / 4 * 2 + j / 4)]} *
          file.values(kQkv + ".lokr_w2")[static_cast<size_t>(i % 4 * 4 + j % 4)]);
    }
  }
  expect_values(delta(value), expected, 1);
}

/// (W + s B A) * dora_scale / norm - W of rows [first, first + kWidth) of a fused matrix, with
/// norms of whole columns.
std::vector<double> column_dora(const MadeFile& file, const Tensor& weights, int64_t first) {
  const int64_t rows = weights.size(0);
  std::vector<double> changed = product(file.values(kQkv + ".lora_up.weight"),
                                        file.values(kQkv + ".lora_down.weight"), 0, rows, 2);
  std::vector<double> squares(static_cast<size_t>(kWidth), 0.0);
  for (size_t i = 0; i < changed.size(); ++i) {
    changed[i] = 0.5 * changed[i] + weights.data<float>()[i];
    squares[i % static_cast<size_t>(kWidth)] += changed[i] * changed[i];
  }
  std::vector<double> expected;
  for (int64_t i = first * kWidth; i < (first + kWidth) * kWidth; ++i) {
    const auto at = static_cast<size_t>(i);
    const auto column = at % static_cast<size_t>(kWidth);
    expected.push_back(changed[at] * file.values(kQkv + ".dora_scale")[column] /
                           std::sqrt(squares[column]) -
                       weights.data<float>()[i]);
  }
  return expected;
}

TEST(Delta, OfDoraAlongTheInputHasTheNormsOfTheFusedMatrix) {
  MadeFile file;
  file.add_pair(kQkv, 3 * kWidth, kWidth, 2).add(kQkv + ".alpha", {}, {1});
  file.add(kQkv + ".dora_scale", {1, kWidth});
  const Adapter adapter = file.read();
  const Tensor weights = made_weights(3 * kWidth, kWidth);
  int64_t first = 0;
  for (const char* name : {"to_q", "to_k", "to_v"}) {
    const Change& change = *find_change(adapter, std::string("transformer_blocks.0.attn.") + name);
    const auto values = [&](const Change& part) {
      return ConstTensor(weights.slice(0, part.first, part.first + kWidth));
    };
    const Tensor trained = trained_matrix(adapter, *change.update, values);
    EXPECT_TRUE(needs_weights(*change.update));
    expect_values(delta(change, trained), column_dora(file, weights, first), 1);
    first += kWidth;
  }
}

TEST(Delta, OfAReplacementIsTheDifferenceFromTheWeight) {
  MadeFile file;
  file.add("double_blocks.0.img_attn.norm.query_norm.scale", {4}, {1, 2, 3, 4});
  file.add_pair("img_in", 8, 4, 2, "lora_A", "lora_B");
  const Adapter adapter = file.read();
  const Change& norm = *find_change(adapter, "transformer_blocks.0.attn.norm_q");
  float weights[] = {1, 1, 1, 0.5f};
  expect_values(delta(norm, Tensor(weights, DType::kF32, {4})), {0, 1, 2, 3.5}, 1);
}

TEST(TrainedMatrix, OfAWidenedInputHasZerosForItsFurtherColumns) {
  MadeFile file;
  file.add_pair("img_in", kWidth, 4, 2, "lora_A", "lora_B").add("img_in.dora_scale", {kWidth, 1});
  const Adapter adapter = file.read();
  const Tensor weights = made_weights(kWidth, 2);
  const auto values = [&](const Change&) { return ConstTensor(weights); };
  const Tensor trained = trained_matrix(adapter, *adapter.changes[0].update, values);
  ASSERT_EQ(trained.shape(), (Shape{kWidth, 4}));
  EXPECT_EQ(trained[1].data<float>()[1], weights[1].data<float>()[1]);
  EXPECT_EQ(trained[1].data<float>()[2], 0.0f);
}

TEST(Delta, ValuesThatAreNotFinite) {
  MadeFile file;
  file.add_pair(kQkv, 24, kWidth, 1);
  file.add("lora_unet_img_in.diff", {8, 1},
           {0, 1, std::numeric_limits<float>::infinity(), 0, 0, 0, 0, 0});
  const Adapter adapter = file.read();
  try {
    delta(*find_change(adapter, "x_embedder"));
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "made: the tensors of 'lora_unet_img_in' hold inf: finite numbers are expected; "
                 "use another file");
  }
}

TEST(LowRankTensors, OfABlockSparseMatrixAreThoseOfThePart) {
  std::vector<float> up(24 * 6, 0.0f);
  for (size_t i = 0; i < 24; ++i) {
    for (size_t k = 0; k < 2; ++k) up[i * 6 + i / 8 * 2 + k] = static_cast<float>(i + k + 1);
  }
  MadeFile file;
  file.add(kQkv + ".lora_down.weight", {6, kWidth}).add(kQkv + ".lora_up.weight", {24, 6}, up);
  file.add(kQkv + ".alpha", {}, {3});
  const Adapter adapter = file.read();
  const Change& key = *find_change(adapter, "transformer_blocks.0.attn.to_k");
  const LowRankTensors part = read_low_rank(key, DType::kF32);
  EXPECT_EQ(part.down.shape(), (Shape{2, kWidth}));
  EXPECT_EQ(part.up.shape(), (Shape{8, 2}));
  EXPECT_EQ(part.scale, 0.5f);  // of all six
  EXPECT_EQ(part.up.data<float>()[0], 9.0f);
  EXPECT_EQ(part.down.data<float>()[0], file.values(kQkv + ".lora_down.weight")[2 * kWidth]);
}

TEST(LowRankTensors, OfZerosHaveOneRank) {
  MadeFile file;
  file.add(kQkv + ".lora_down.weight", {6, kWidth});
  file.add(kQkv + ".lora_up.weight", {24, 6}, std::vector<float>(24 * 6, 0.0f));
  const Adapter adapter = file.read();
  const LowRankTensors part = read_low_rank(adapter.changes[0], DType::kBF16);
  EXPECT_EQ(part.down.shape(), (Shape{1, kWidth}));
  EXPECT_EQ(part.down.dtype(), DType::kBF16);
}

}  // namespace
}  // namespace flux
