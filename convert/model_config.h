#pragma once

#include <chrono>
#include <set>
#include <string>
#include <vector>

#include "ops/precision.h"
#include "pipeline/flux_config.h"
#include "pipeline/model_names.h"
#include "tensor/device.h"
#include "tensor/dtype.h"

namespace flux {

/// Settings of the config.pbtxt files besides the checkpoint's own sizes.
struct ServingOptions {
  DType dtype = DType::kF32;                                 // f32, bf16 or f16
  Quantization quantization = Quantization::kNone;           // of t5_encoder and dit_transformer
  AttentionPrecision attention = AttentionPrecision::kSame;  // of dit_transformer
  Device device;
  bool every_gpu = true;   // stages have instances on every GPU, not on `device` alone
  int max_batch_size = 8;  // rows of one execution, >= 1
  int instances = 1;       // of each stage, >= 1
  /// Of "bls" and kStreamName, the only models with a bound: requests that may wait (0: any
  /// number), and for how long.
  int max_queue_size = 256;
  std::chrono::microseconds queue_timeout = std::chrono::minutes(10);  // > 0
  ImageSize default_size;
  int64_t max_side = 0;  // pixels
  std::string prefix;    // of the models' names: empty, or a name and "_"
  /// Models that Triton's Python backend runs; the others are this program's backend's.
  std::set<std::string, std::less<>> in_python;

  bool has_encoder = false;  // in the checkpoint's VAE; convert_checkpoint() looks

  /// Whether there is kStreamName, which is native as "bls" is.
  bool has_stream() const { return !in_python.contains("bls"); }
  /// Whether there is kImageEncoderName, which a "bls" in Python has no use for.
  bool encodes_images() const { return has_encoder && has_stream(); }
};

/// A file that convert writes into the directory of a model, beside weights and configurations.
struct ModelFile {
  std::string model;  // "schnell_dit_transformer"; also the name of its directory
  std::string name;   // in that directory: "config.pbtxt", "1/model.py"
  std::string text;
};

/// The files of all models, from the templates. kOptionalModelNames are among them as the options
/// say.
std::vector<ModelFile> make_model_files(const FluxConfig& config, const ServingOptions& options);

/// The file that says what the directory kLorasDirectory is for.
inline constexpr std::string_view kLorasReadme = "README.md";

}  // namespace flux
