#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "models/config.h"
#include "weights/weight_files.h"

namespace flux {

/// Where the parts of a model are: in a diffusers checkpoint beside one another; in a model
/// repository made from one (it has bls/1/model_index.json) with the model that needs them.
class ModelLayout {
 public:
  /// Throws kNotFound when `directory` is none of the two.
  explicit ModelLayout(const std::filesystem::path& directory);

  /// The directory of a component of model_index.json, "transformer" say.
  std::filesystem::path component(const std::string& name) const;
  /// The directory of the component's config.json.
  std::filesystem::path config(const std::string& name) const;
  std::filesystem::path model_index() const { return configs_ / "model_index.json"; }
  bool is_repository() const { return repository_; }

 private:
  std::filesystem::path root_;
  std::filesystem::path configs_;
  bool repository_ = false;
};

/// The configurations of all parts, checked to fit one another.
FluxConfig load_flux_config(const ModelLayout& layout);

/// An opened FLUX.1 model, from a diffusers checkpoint or a model repository:
/// model_index.json, the configurations, and the mapped weight files. Opening reads headers only.
/// Immutable and shared.
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
  std::filesystem::path tokenizer_directory() const { return layout_->component("tokenizer"); }
  std::filesystem::path tokenizer_2_directory() const { return layout_->component("tokenizer_2"); }
  const ModelLayout& layout() const { return *layout_; }

  /// The dtype in which the transformer's weights are stored: the default to compute in.
  DType stored_dtype() const;

 private:
  std::filesystem::path directory_;
  std::unique_ptr<const ModelLayout> layout_;
  std::vector<Component> components_;
  FluxConfig config_;
  std::unique_ptr<const WeightFiles> text_encoder_;
  std::unique_ptr<const WeightFiles> text_encoder_2_;
  std::unique_ptr<const WeightFiles> transformer_;
  std::unique_ptr<const WeightFiles> vae_;
};

}  // namespace flux
