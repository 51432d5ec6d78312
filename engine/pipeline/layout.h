#pragma once

#include <filesystem>

#include "pipeline/components.h"

namespace flux {

/// The places of the files of a checkpoint's components.
class Layout {
 public:
  virtual ~Layout() = default;

  /// The directory of the component's weights or tokenizer.
  virtual std::filesystem::path directory(Component component) const = 0;
  /// The directory of model_index.json and of each component's directory with its config.
  virtual std::filesystem::path configs() const = 0;

  std::filesystem::path model_index() const { return configs() / "model_index.json"; }
  /// The component's config file, for components that have one.
  std::filesystem::path config(Component component) const {
    return configs() / name_of(component) / info_of(component).config_file;
  }
};

/// The layout of a diffusers checkpoint: the components beside one another.
class DiffusersLayout final : public Layout {
 public:
  explicit DiffusersLayout(std::filesystem::path root) : root_(std::move(root)) {}

  std::filesystem::path directory(Component component) const override {
    return root_ / name_of(component);
  }
  std::filesystem::path configs() const override { return root_; }

 private:
  std::filesystem::path root_;
};

}  // namespace flux
