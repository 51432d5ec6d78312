#pragma once

#include <array>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/family.h"
#include "pipeline/layout.h"
#include "pipeline/model_index.h"
#include "pipeline/weight_layouts.h"
#include "weights/tensor_store.h"

namespace flux {

/// An opened checkpoint: its family, the configurations, and the mapped weight files. Opening reads
/// headers only. Immutable and shared.
class Checkpoint {
 public:
  /// Opens a diffusers checkpoint. Throws kNotFound for a missing part, kInvalidArgument for one
  /// that cannot be used: another pipeline or component class, a bad config, a damaged weight file,
  /// sizes that do not fit.
  static std::shared_ptr<const Checkpoint> open(const std::filesystem::path& directory);
  /// The same of parts in other places; `source`, a directory or file, only names the checkpoint.
  /// `variant`: of the weights' files (WeightFiles::first_file()); throws kNotFound when no part
  /// has it.
  static std::shared_ptr<const Checkpoint> open(const std::filesystem::path& source,
                                                std::unique_ptr<const Layout> layout,
                                                std::string variant = {});

  const std::filesystem::path& source() const { return source_; }
  /// The name of the directory, or of the file without its ending, for people.
  std::string name() const;
  const Layout& layout() const { return *layout_; }
  /// Empty: none was asked for.
  const std::string& variant() const { return variant_; }
  const Family& family() const { return *family_; }
  const ModelIndex& index() const { return index_; }
  const FluxConfig& config() const { return config_; }

  /// The tensors of a component that has weights.
  const TensorStore& weights(Component component) const;
  /// How the tensors are named in their files: "diffusers", "Black Forest Labs", ...
  std::string_view weight_layout(Component component) const;
  /// The config of a component that has one, as it was read or inferred.
  const nlohmann::json& config_json(Component component) const;
  /// The components that have weights, in the order of the table.
  std::vector<Component> weight_components() const;

  /// The dtype in which the transformer's weights are stored: the default to compute in.
  DType stored_dtype() const;

 private:
  ConfigReader read_config(Component component);
  void open_weights(Component component);
  void check_variant() const;

  std::filesystem::path source_;
  std::unique_ptr<const Layout> layout_;
  std::string variant_;
  const Family* family_ = nullptr;
  ModelIndex index_;
  FluxConfig config_;
  std::array<NamedWeights, std::size(kComponents)> weights_;
  std::array<std::optional<ConfigReader>, std::size(kComponents)> configs_;
  /// While it is opened: what several parts may be in.
  std::map<std::filesystem::path, std::shared_ptr<const TensorStore>> files_;
};

}  // namespace flux
