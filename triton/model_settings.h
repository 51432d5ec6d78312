#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "ops/precision.h"
#include "pipeline/model_names.h"
#include "tensor/tensor.h"
#include "triton/c_api.h"
#include "triton/metrics.h"

namespace flux::triton {

/// The settings of a model, from config.pbtxt and the server.
struct ModelSettings {
  std::string name;
  ModelName kind;                   // the parts of the name
  std::filesystem::path directory;  // <repository>/<model>/<version>
  nlohmann::json config;
  DType dtype = DType::kF32;
  Quantization quantization = Quantization::kNone;           // of t5_encoder and dit_transformer
  AttentionPrecision attention = AttentionPrecision::kSame;  // of dit_transformer
  Device device;  // of config.pbtxt, and then of the instances that share a ServedModel
  Server* server = nullptr;
  std::shared_ptr<const Metrics> metrics;

  Precision precision() const { return {dtype, quantization, attention}; }
  bool has_parameter(const char* key) const;
  /// A value of config.pbtxt's `parameters`. Throws kInvalidArgument when it is missing.
  std::string parameter(const char* key) const;
  int64_t integer_parameter(const char* key) const;
};

/// Reads the settings of a model, and makes its metrics. Throws kInvalidArgument naming what is
/// missing or not allowed.
ModelSettings read_settings(Model* model);

}  // namespace flux::triton
