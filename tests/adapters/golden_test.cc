// Adapters of tiny-dev that diffusers, peft and LyCORIS saved, and what they merge them into
// (tests/reference/make_adapters.py).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "adapters/adapter_file.h"
#include "adapters/delta.h"
#include "adapters/fit.h"
#include "support/json_file.h"
#include "weights/safetensors.h"

namespace flux {
namespace {

const std::filesystem::path kGolden = FLUX_TEST_DATA;
const std::filesystem::path kCheckpoint = kGolden / "checkpoints/tiny-dev";

/// The models of tiny-dev.
struct Models {
  FluxTransformerConfig transformer =
      load_flux_transformer_config(ConfigReader(kCheckpoint / "transformer/config.json"));
  ClipConfig clip = load_clip_config(ConfigReader(kCheckpoint / "text_encoder/config.json"));
  T5Config t5 = load_t5_config(ConfigReader(kCheckpoint / "text_encoder_2/config.json"));
  std::unique_ptr<const SafetensorsFile> transformer_file =
      SafetensorsFile::open(kCheckpoint / "transformer/diffusion_pytorch_model.safetensors");
  std::unique_ptr<const SafetensorsFile> clip_file =
      SafetensorsFile::open(kCheckpoint / "text_encoder/model.safetensors");

  Tensor values(const Change& change) const {
    const bool is_clip = change.model == AdapterModel::kClip;
    const bool is_bias = change.parameter == Parameter::kBias;
    const std::string name = change.module + (is_bias ? ".bias" : ".weight");
    const StoredTensor* stored = (is_clip ? clip_file : transformer_file)->find(name);
    return stored == nullptr ? Tensor() : decode(*stored, DType::kF32);
  }
};

/// Our name of a merged tensor, with "clip." before CLIP's.
std::string our_name(std::string name) {
  const std::string prefix = "text_encoder.";
  if (!name.starts_with(prefix)) return name;
  name = name.substr(prefix.size());
  return "clip." + (name.starts_with("text_model.") ? name : "text_model." + name);
}

std::string name_of_merged(const Change& change) {
  const bool is_clip = change.model == AdapterModel::kClip;
  const bool is_bias = change.parameter == Parameter::kBias;
  return (is_clip ? "clip." : "") + change.module + (is_bias ? ".bias" : ".weight");
}

/// Every parameter that a change of the adapter is of, with all its changes added.
std::map<std::string, Tensor> merge(const Adapter& adapter, const Models& models) {
  std::map<std::string, Tensor> merged;
  const auto values = [&](const Change& change) { return models.values(change); };
  for (const Change& change : adapter.changes) {
    const auto [at, added] = merged.try_emplace(name_of_merged(change), models.values(change));
    const Tensor trained = trained_matrix(adapter, *change.update, values);
    const Tensor added_values = delta(change, trained);
    const Tensor rows = at->second.slice(0, change.begin, change.end);
    for (int64_t i = 0; i < rows.numel(); ++i) {
      rows.data<float>()[i] += added_values.data<float>()[i];
    }
  }
  return merged;
}

double largest_difference(const Tensor& found, const Tensor& expected) {
  double worst = 0;
  double largest = 0;
  for (int64_t i = 0; i < found.numel(); ++i) {
    const double value = expected.data<float>()[i];
    worst = std::max(worst, std::abs(found.data<float>()[i] - value));
    largest = std::max(largest, std::abs(value));
  }
  return worst / largest;
}

TEST(AdapterGolden, MergedWeightsAreThoseOfTheLibraries) {
  const Models models;
  const nlohmann::json index = read_json_file(kGolden / "adapters/index.json");
  ASSERT_GE(index["cases"].size(), 15u);
  for (const auto& entry : index["cases"]) {
    const std::string name = entry["name"];
    SCOPED_TRACE(name);
    const auto folder = kGolden / "adapters";
    const Adapter adapter = fit_adapter(open_adapter(folder / (name + ".safetensors")),
                                        {models.transformer, &models.clip, &models.t5});
    EXPECT_EQ(adapter.unused, std::vector<std::string>());
    EXPECT_EQ(adapter.dialects, std::vector<std::string>{entry["dialect"]});
    const auto expected = SafetensorsFile::open(folder / (name + "_merged.safetensors"));
    const auto merged = merge(adapter, models);
    EXPECT_EQ(merged.size(), expected->tensors().size());
    for (const auto& [stored_name, stored] : expected->tensors()) {
      const auto found = merged.find(our_name(stored_name));
      ASSERT_NE(found, merged.end()) << stored_name;
      const Tensor values = decode(stored, DType::kF32);
      ASSERT_EQ(found->second.shape(), values.shape()) << stored_name;
      EXPECT_LT(largest_difference(found->second, values), 2e-6) << stored_name;
    }
  }
}

}  // namespace
}  // namespace flux
