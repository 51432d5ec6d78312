#pragma once

#include <array>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/family.h"
#include "pipeline/layout.h"
#include "pipeline/model_index.h"
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
  /// The same for another layout of the files in `directory`, which only names the checkpoint.
  static std::shared_ptr<const Checkpoint> open(const std::filesystem::path& directory,
                                                std::unique_ptr<const Layout> layout);

  const std::filesystem::path& directory() const { return directory_; }
  /// The directory's name, for people.
  std::string name() const;
  const Layout& layout() const { return *layout_; }
  const Family& family() const { return *family_; }
  const ModelIndex& index() const { return index_; }
  const FluxConfig& config() const { return config_; }

  /// The tensors of a component that has weights.
  const TensorStore& weights(Component component) const;
  /// The components that have weights, in the order of the table.
  std::vector<Component> weight_components() const;

  /// The dtype in which the transformer's weights are stored: the default to compute in.
  DType stored_dtype() const;

 private:
  std::filesystem::path directory_;
  std::unique_ptr<const Layout> layout_;
  const Family* family_ = nullptr;
  ModelIndex index_;
  FluxConfig config_;
  std::array<std::unique_ptr<const TensorStore>, std::size(kComponents)> weights_;
};

}  // namespace flux
