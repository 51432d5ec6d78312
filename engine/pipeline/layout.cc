#include "pipeline/layout.h"

namespace flux {

namespace fs = std::filesystem;

fs::path PartsLayout::place(Component component) const {
  if (!given(component).empty() || base_ == nullptr) return given(component);
  return base_->place(component);
}

fs::path PartsLayout::model_index() const {
  return base_ == nullptr ? fs::path() : base_->model_index();
}

fs::path PartsLayout::config(Component component) const {
  if (given(component).empty()) return base_ == nullptr ? fs::path() : base_->config(component);
  const fs::path beside = given(component) / info_of(component).config_file;
  std::error_code error;
  return fs::exists(beside, error) ? beside : fs::path();
}

}  // namespace flux
