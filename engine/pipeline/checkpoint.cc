#include "pipeline/checkpoint.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "models/flux1/names.h"
#include "pipeline/source_check.h"
#include "support/error.h"
#include "support/utf8.h"
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
        info.name, excerpt(found->class_name), expected);
  const fs::path place = layout.place(info.component);
  if (place.empty()) return;  // the scheduler of a checkpoint without files for it
  check(fs::exists(place), ErrorCode::kNotFound, "{}: directory of component '{}' is missing",
        place, info.name);
}

/// The first file of weights in a directory, for messages; the path itself where there is none.
fs::path first_weights_in(const fs::path& place) {
  fs::path first;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(place, error)) {
    const bool fits = is_weight_file(entry.path());
    if (fits && (first.empty() || entry.path() < first)) first = entry.path();
  }
  return first.empty() ? place : first;
}

}  // namespace

std::shared_ptr<const Checkpoint> Checkpoint::open(const fs::path& directory) {
  return open(directory, std::make_unique<DiffusersLayout>(fs::absolute(directory)));
}

std::shared_ptr<const Checkpoint> Checkpoint::open(const fs::path& source,
                                                   std::unique_ptr<const Layout> layout,
                                                   std::string variant) {
  const auto checkpoint = std::make_shared<Checkpoint>();
  const fs::path index = layout->model_index();
  if (!index.empty()) check_source(source, index);
  // It is kept absolute, and without a trailing slash so that name() is its last part.
  const fs::path absolute = fs::absolute(source).lexically_normal();
  checkpoint->source_ = absolute.has_filename() ? absolute : absolute.parent_path();
  checkpoint->layout_ = std::move(layout);
  checkpoint->variant_ = std::move(variant);
  checkpoint->index_ = index.empty() ? default_model_index(source) : read_model_index(index);
  checkpoint->family_ = &family_of(checkpoint->index_);
  for (const Component component : checkpoint->family_->components) {
    check_component(*checkpoint->layout_, checkpoint->index_, info_of(component));
  }
  checkpoint->check_variant();
  checkpoint->config_ = checkpoint->family_->load_config(
      [&](Component component) { return checkpoint->read_config(component); });
  if (const auto& size = checkpoint->index_.default_size) {
    check_image_size(fmt::format("{}: default_size", checkpoint->index_.file), *size,
                     checkpoint->config_);
    checkpoint->config_.default_size = size;
  }
  for (const Component component : checkpoint->weight_components()) {
    checkpoint->open_weights(component);
  }
  checkpoint->files_.clear();
  return checkpoint;
}

ConfigReader Checkpoint::read_config(Component component) {
  std::optional<ConfigReader>& config = configs_[static_cast<size_t>(component)];
  if (config) return *config;
  const fs::path file = layout_->config(component);
  if (!file.empty()) {
    config.emplace(file);
  } else if (component == Component::kScheduler) {
    const ConfigReader transformer = read_config(Component::kTransformer);
    config.emplace(transformer.name(),
                   scheduler_config_for(transformer.boolean("guidance_embeds", false)));
  } else {
    open_weights(component);
    config.emplace(layout_->place(component).string(), infer_config(component, weights(component)));
  }
  return *config;
}

void Checkpoint::open_weights(Component component) {
  NamedWeights& weights = weights_[static_cast<size_t>(component)];
  if (weights.store != nullptr) return;
  const fs::path place = layout_->place(component);
  std::shared_ptr<const TensorStore>& stored = files_[place];
  if (stored == nullptr) stored = open_place(component, place, variant_);
  weights = named_weights(component, stored, !layout_->config(component).empty());
}

void Checkpoint::check_variant() const {
  if (variant_.empty()) return;
  std::vector<std::string> found;
  for (const Component component : weight_components()) {
    const fs::path place = layout_->place(component);
    const std::string_view stem = info_of(component).weights_stem;
    const fs::path plain = WeightFiles::first_file(place, stem);
    if (WeightFiles::first_file(place, stem, variant_) != plain) return;
    const std::string file = (plain.empty() ? first_weights_in(place) : plain).string();
    // Several parts may be in one file.
    if (std::find(found.begin(), found.end(), file) == found.end()) found.push_back(file);
  }
  fail(ErrorCode::kNotFound,
       "{}: no part has weights of the variant '{}'; there {} {}; leave --variant out, or give one "
       "that is there",
       source_, variant_, found.size() == 1 ? "is" : "are", fmt::join(found, ", "));
}

std::string Checkpoint::name() const {
  if (!index_.name.empty()) return index_.name;
  return fs::is_directory(source_) ? source_.filename().string() : source_.stem().string();
}

const TensorStore& Checkpoint::weights(Component component) const {
  const NamedWeights& found = weights_[static_cast<size_t>(component)];
  check(found.store != nullptr, ErrorCode::kInternal, "component '{}' has no weights here",
        name_of(component));
  return *found.store;
}

std::string_view Checkpoint::weight_layout(Component component) const {
  return weights_[static_cast<size_t>(component)].layout;
}

const nlohmann::json& Checkpoint::config_json(Component component) const {
  const auto& config = configs_[static_cast<size_t>(component)];
  check(config.has_value(), ErrorCode::kInternal, "component '{}' has no config here",
        name_of(component));
  return config->json();
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
