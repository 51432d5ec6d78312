#include "pipeline/checkpoint.h"

#include <algorithm>

#include "pipeline/source_check.h"
#include "support/error.h"
#include "weights/weight_files.h"

namespace flux {
namespace {

namespace fs = std::filesystem;

void check_component(const Layout& layout, const ModelIndex& index, const ComponentInfo& info) {
  const std::string expected = info.classes[1].empty()
                                   ? std::string(info.classes[0])
                                   : fmt::format("{} or {}", info.classes[0], info.classes[1]);
  const auto found = std::find_if(index.components.begin(), index.components.end(),
                                  [&](const auto& entry) { return entry.name == info.name; });
  check(found != index.components.end(), ErrorCode::kNotFound,
        "{}: component '{}' is missing, expected {}", index.file, info.name, expected);
  check(found->class_name == info.classes[0] || found->class_name == info.classes[1],
        ErrorCode::kInvalidArgument, "{}: component '{}' has class '{}', expected {}", index.file,
        info.name, found->class_name, expected);
  const fs::path directory = layout.directory(info.component);
  check(fs::is_directory(directory), ErrorCode::kNotFound,
        "{}: directory of component '{}' is missing", directory, info.name);
}

}  // namespace

std::shared_ptr<const Checkpoint> Checkpoint::open(const fs::path& directory) {
  return open(directory, std::make_unique<DiffusersLayout>(fs::absolute(directory)));
}

std::shared_ptr<const Checkpoint> Checkpoint::open(const fs::path& directory,
                                                   std::unique_ptr<const Layout> layout) {
  check_source(directory, layout->model_index());
  const auto checkpoint = std::make_shared<Checkpoint>();
  // It is kept absolute, and without a trailing slash so that name() is its last part.
  const fs::path absolute = fs::absolute(directory).lexically_normal();
  checkpoint->directory_ = absolute.has_filename() ? absolute : absolute.parent_path();
  checkpoint->layout_ = std::move(layout);
  const Layout& from = *checkpoint->layout_;
  checkpoint->index_ = read_model_index(from.model_index());
  checkpoint->family_ = &family_of(checkpoint->index_);
  for (const Component component : checkpoint->family_->components) {
    check_component(from, checkpoint->index_, info_of(component));
  }
  checkpoint->config_ = checkpoint->family_->load_config(from);
  if (const auto& size = checkpoint->index_.default_size) {
    check_image_size(fmt::format("{}: default_size", checkpoint->index_.file), *size,
                     checkpoint->config_);
    checkpoint->config_.default_size = size;
  }
  for (const Component component : checkpoint->weight_components()) {
    checkpoint->weights_[static_cast<size_t>(component)] =
        WeightFiles::open(from.directory(component), info_of(component).weights_stem);
  }
  return checkpoint;
}

std::string Checkpoint::name() const { return directory_.filename().string(); }

const TensorStore& Checkpoint::weights(Component component) const {
  const auto& store = weights_[static_cast<size_t>(component)];
  check(store != nullptr, ErrorCode::kInternal, "component '{}' has no weights here",
        name_of(component));
  return *store;
}

std::vector<Component> Checkpoint::weight_components() const {
  std::vector<Component> components;
  for (const Component component : family_->components) {
    if (!info_of(component).weights_stem.empty()) components.push_back(component);
  }
  return components;
}

DType Checkpoint::stored_dtype() const { return weights(Component::kTransformer).dtype(); }

}  // namespace flux
