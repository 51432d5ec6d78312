#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "models/config.h"
#include "weights/weight_files.h"

namespace flux {

/// An opened diffusers FLUX.1 checkpoint: model_index.json, the configurations, and the mapped
/// weight files. Opening reads headers only. Immutable and shared.
class Checkpoint {
 public:
  Checkpoint() = default;
  /// Throws kNotFound for a missing part, kInvalidArgument for one that cannot be used: another
  /// pipeline or component class, a bad config, a damaged weight file, sizes that do not fit.
  static std::shared_ptr<const Checkpoint> open(const std::filesystem::path& directory);

  /// One entry of model_index.json.
  struct Component {
    std::string name;        // "transformer"
    std::string library;     // "diffusers"
    std::string class_name;  // "FluxTransformer2DModel"
  };

  const std::filesystem::path& directory() const { return directory_; }
  /// The directory's name, for people.
  std::string name() const;
  const std::vector<Component>& components() const { return components_; }
  const FluxConfig& config() const { return config_; }

  const WeightFiles& text_encoder() const { return *text_encoder_; }
  const WeightFiles& text_encoder_2() const { return *text_encoder_2_; }
  const WeightFiles& transformer() const { return *transformer_; }
  const WeightFiles& vae() const { return *vae_; }
  std::filesystem::path tokenizer_directory() const { return directory_ / "tokenizer"; }
  std::filesystem::path tokenizer_2_directory() const { return directory_ / "tokenizer_2"; }

  /// The dtype in which the transformer's weights are stored: the default to compute in.
  DType stored_dtype() const;

 private:
  std::filesystem::path directory_;
  std::vector<Component> components_;
  FluxConfig config_;
  std::unique_ptr<const WeightFiles> text_encoder_;
  std::unique_ptr<const WeightFiles> text_encoder_2_;
  std::unique_ptr<const WeightFiles> transformer_;
  std::unique_ptr<const WeightFiles> vae_;
};

}  // namespace flux
