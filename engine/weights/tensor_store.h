#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/encoding.h"

namespace flux {

/// The tensors of one component by name, whatever files they come from. Immutable; tensors stay
/// valid while the store lives.
class TensorStore {
 public:
  virtual ~TensorStore() = default;

  /// The named tensor, or null.
  virtual const StoredTensor* find(std::string_view name) const = 0;
  /// Why the named tensor, which is there, cannot be read: "is stored as F8_E4M3, ...". It matters
  /// only to who wants it. Empty: it can be read, or is not there.
  virtual std::string_view why_unreadable(std::string_view name) const = 0;
  /// The name that the tensor has in its file, or would have, for messages: `name` but for stores
  /// of other layouts.
  virtual std::string stored_name(std::string_view name) const { return std::string(name); }
  /// The file that holds the tensor, for messages; a place that all tensors share when the store
  /// has none of that name.
  virtual std::filesystem::path file_of(std::string_view name) const = 0;
  /// The names of all tensors that can be read, in alphabetical order.
  virtual std::vector<std::string> names() const = 0;
  /// Those of the ones that cannot.
  virtual std::vector<std::string> unreadable_names() const = 0;

  /// Elements of all floating point tensors.
  int64_t parameter_count() const;
  /// Bytes of all tensors.
  int64_t bytes() const;
  /// The floating point dtype that most parameters are stored in; bf16 stands for every encoding.
  DType dtype() const;
  /// The types that values are stored in, those of most parameters first, with their counts:
  /// {"Q4_K", 1000}, {"f32", 20}.
  std::vector<std::pair<std::string, int64_t>> types() const;
};

}  // namespace flux
