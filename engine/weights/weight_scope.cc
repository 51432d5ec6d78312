#include "weights/weight_scope.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "support/error.h"
#include "support/log.h"
#include "tensor/format.h"

namespace flux {

WeightScope::WeightScope(const TensorStore& store)
    : store_(&store), taken_(std::make_shared<std::set<std::string, std::less<>>>()) {}

WeightScope WeightScope::operator/(std::string_view name) const {
  WeightScope scope = *this;
  scope.prefix_ = full_name(name);
  return scope;
}

WeightScope WeightScope::operator/(int64_t index) const { return *this / std::to_string(index); }

std::string WeightScope::full_name(std::string_view name) const {
  if (prefix_.empty()) return std::string(name);
  return name.empty() ? prefix_ : fmt::format("{}.{}", prefix_, name);
}

StoredTensor WeightScope::take_stored(std::string_view name, const Shape& expected) const {
  const std::string full = full_name(name);
  const std::string_view unreadable = store_->why_unreadable(full);
  check(unreadable.empty(), ErrorCode::kInvalidArgument, "{}: tensor '{}' {}",
        store_->file_of(full), store_->stored_name(full), unreadable);
  const StoredTensor* tensor = store_->find(full);
  check(tensor != nullptr, ErrorCode::kNotFound,
        "{}: tensor '{}' is missing, expected with shape {}; the weights are incomplete, or not "
        "those of their config",
        store_->file_of(full), store_->stored_name(full), expected);
  check(tensor->shape == expected, ErrorCode::kInvalidArgument,
        "{}: tensor '{}' has shape {}, expected {}; the weights are not those of their config",
        store_->file_of(full), store_->stored_name(full), tensor->shape, expected);
  check(!tensor->is_plain() || is_floating_point(tensor->data.dtype()), ErrorCode::kInvalidArgument,
        "{}: tensor '{}' is stored as {}, expected f32, bf16, f16 or f64", store_->file_of(full),
        store_->stored_name(full), tensor->type_name());
  taken_->insert(full);
  return *tensor;
}

ConstTensor WeightScope::take(std::string_view name, const Shape& expected) const {
  const StoredTensor tensor = in_memory(take_stored(name, expected));
  return tensor.is_plain() ? tensor.data : decode(tensor, DType::kF32);
}

ConstTensor WeightScope::take_f32(std::string_view name, const Shape& expected) const {
  return to_dtype(take(name, expected), DType::kF32);
}

bool WeightScope::contains(std::string_view name) const {
  const std::string full = full_name(name);
  return store_->find(full) != nullptr || !store_->why_unreadable(full).empty();
}

std::vector<std::string> WeightScope::unused(
    std::initializer_list<std::string_view> ignored) const {
  std::vector<std::string> names;
  std::vector<std::string> all = store_->names();
  for (std::string& name : store_->unreadable_names()) all.push_back(std::move(name));
  std::sort(all.begin(), all.end());
  for (std::string& name : all) {
    const bool skip = taken_->contains(name) ||
                      std::any_of(ignored.begin(), ignored.end(), [&](std::string_view prefix) {
                        return name.starts_with(prefix);
                      });
    if (!skip) names.push_back(std::move(name));
  }
  return names;
}

void WeightScope::warn_of_unused(std::initializer_list<std::string_view> ignored) const {
  constexpr size_t kNamed = 3;
  const std::vector<std::string> names = unused(ignored);
  std::vector<std::string> named;
  for (size_t i = 0; i < std::min(kNamed, names.size()); ++i) {
    named.push_back(store_->stored_name(names[i]));
  }
  if (names.size() == 1) {
    log_warning("{}: tensor '{}' is not used", store_->file_of(names[0]), named[0]);
  } else if (!names.empty()) {
    log_warning("{}: {} tensors are not used: '{}'{}", store_->file_of(names[0]), names.size(),
                fmt::join(named, "', '"), names.size() > kNamed ? ", ..." : "");
  }
}

}  // namespace flux
