#pragma once

#include <initializer_list>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "weights/tensor_store.h"

namespace flux {

/// The tensors under one prefix of a component, checked as they are taken. Scopes of one component
/// share the record of what was taken.
class WeightScope {
 public:
  /// The whole component. `store` must outlive the scope.
  explicit WeightScope(const TensorStore& store);

  /// The scope `prefix`.`name`.
  WeightScope operator/(std::string_view name) const;
  WeightScope operator/(int64_t index) const;

  /// The tensor `prefix`.`name` (just `prefix` for an empty name), of a floating point dtype:
  /// encoded values are decoded into f32. Throws kNotFound when it is missing and kInvalidArgument
  /// for another shape or dtype, naming file, tensor, found and expected.
  ConstTensor take(std::string_view name, const Shape& expected) const;
  /// The same as it is stored. It may not have been read: see StoredTensor::file.
  StoredTensor take_stored(std::string_view name, const Shape& expected) const;
  /// A new f32 host tensor with the values: for biases, norm weights and other vectors.
  ConstTensor take_f32(std::string_view name, const Shape& expected) const;
  bool contains(std::string_view name) const;
  /// The name of the module `name` in here; the scope's own for an empty name.
  std::string full_name(std::string_view name) const;

  /// The tensors of the component that nothing took, but for those under the `ignored` prefixes.
  std::vector<std::string> unused(std::initializer_list<std::string_view> ignored) const;
  /// Logs a warning with their number and the first names, if there are any.
  void warn_of_unused(std::initializer_list<std::string_view> ignored) const;

 private:
  const TensorStore* store_;
  std::string prefix_;
  std::shared_ptr<std::set<std::string, std::less<>>> taken_;
};

}  // namespace flux
