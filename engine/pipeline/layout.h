#pragma once

#include <array>
#include <filesystem>
#include <memory>
#include <utility>

#include "pipeline/components.h"

namespace flux {

/// The places of the parts of a checkpoint.
class Layout {
 public:
  virtual ~Layout() = default;

  /// The directory of the component's weights or tokenizer, or a file that holds them. Empty: it is
  /// nowhere.
  virtual std::filesystem::path place(Component component) const = 0;
  /// model_index.json. Empty: there is none, and the parts are those of a FluxPipeline.
  virtual std::filesystem::path model_index() const = 0;
  /// The component's config file, for components that have one. Empty: there is none, and its
  /// values follow from the weights.
  virtual std::filesystem::path config(Component component) const = 0;
};

/// The layout of a diffusers checkpoint: the components beside one another.
class DiffusersLayout final : public Layout {
 public:
  explicit DiffusersLayout(std::filesystem::path root) : root_(std::move(root)) {}

  std::filesystem::path place(Component component) const override {
    return root_ / name_of(component);
  }
  std::filesystem::path model_index() const override { return root_ / "model_index.json"; }
  std::filesystem::path config(Component component) const override {
    return place(component) / info_of(component).config_file;
  }

 private:
  std::filesystem::path root_;
};

/// Parts from wherever they are: files, and directories like those of a diffusers checkpoint.
class PartsLayout final : public Layout {
 public:
  /// In the order of Component; empty where a part is nowhere.
  using Places = std::array<std::filesystem::path, std::size(kComponents)>;

  /// `base`, which may be null, has the parts that are empty in `places`.
  PartsLayout(std::unique_ptr<const Layout> base, Places places)
      : base_(std::move(base)), places_(std::move(places)) {}

  std::filesystem::path place(Component component) const override;
  std::filesystem::path model_index() const override;
  std::filesystem::path config(Component component) const override;

 private:
  const std::filesystem::path& given(Component component) const {
    return places_[static_cast<size_t>(component)];
  }

  std::unique_ptr<const Layout> base_;
  Places places_;
};

}  // namespace flux
