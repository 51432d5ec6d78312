#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "pipeline/checkpoint.h"
#include "pipeline/request.h"
#include "tensor/tensor.h"
#include "weights/safetensors.h"

namespace flux::testing {

/// One case of tests/golden/<checkpoint>/index.json, or of that in image_to_image/: what diffusers
/// computed, and from what.
struct GoldenCase {
  std::string checkpoint;
  std::string name;
  std::string stage;
  DType dtype = DType::kF32;
  bool trace = false;
  nlohmann::json recipe;
  std::shared_ptr<const SafetensorsFile> file;

  ConstTensor tensor(const std::string& name) const;
  bool has(const std::string& name) const;
};

/// A checkpoint that has golden files, and where to compute.
struct GoldenSetting {
  std::string checkpoint;
  Device device;
};
/// All of them on all devices; tests skip those that are not there.
std::vector<GoldenSetting> golden_settings();
/// The same for transformers in single files (tests/golden/single_files): their names.
std::vector<GoldenSetting> single_file_settings();
/// The same for the checkpoints of other pipelines: Kontext, Fill and Control.
std::vector<GoldenSetting> kind_settings();
/// "tiny_dev_cpu", for names of tests.
std::string name_of(const GoldenSetting& setting);

/// Tests on one setting.
class GoldenTest : public ::testing::TestWithParam<GoldenSetting> {
 protected:
  void SetUp() override;
  const std::string& checkpoint() const { return GetParam().checkpoint; }
  const Device& device() const { return GetParam().device; }
};

/// The cases of a checkpoint for one stage ("clip_encoder", ..., "bls"), traces left out.
std::vector<GoldenCase> golden_cases(const std::string& checkpoint, const std::string& stage);
/// The trace of one stage.
GoldenCase golden_trace(const std::string& checkpoint, const std::string& stage);
/// Opens a golden checkpoint, once for all tests.
std::shared_ptr<const Checkpoint> open_golden(const std::string& checkpoint);

/// Largest absolute difference, as a share of the largest absolute expected value.
double relative_error(const ConstTensor& found, const ConstTensor& expected);
/// The rows of a case's request, with seeds as FluxPipeline's generators have them, and its image
/// and mask where it has them.
std::vector<ImageParams> golden_rows(const GoldenCase& golden);
bool same_bytes(const ConstTensor& a, const ConstTensor& b);
/// The share of the values of two u8 images that differ by one at most.
double share_within_one(const ConstTensor& found, const ConstTensor& expected);
/// Peak signal to noise ratio of two u8 images, in dB; infinite when they are equal.
double psnr(const ConstTensor& a, const ConstTensor& b);

}  // namespace flux::testing
