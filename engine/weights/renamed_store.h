#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "weights/tensor_store.h"

namespace flux {

/// The part of a stored tensor that a tensor of ours is.
struct StoredPart {
  /// Rows begin / of to end / of of its first dimension.
  int begin = 0;
  int end = 1;
  int of = 1;
  bool halves_swapped = false;  // the second half of the rows comes first
  bool is_matrix = false;       // stored as a 1 x 1 convolution, [out, in, 1, 1]
};

/// A row of a table of names: a tensor by our name (diffusers' or transformers'), and by that of
/// another layout. "#" stands for a number, the same on both sides, "%" for one that counts from
/// the other end; a name that ends in ".*" stands for ".weight" and ".bias".
struct NameRow {
  std::string_view ours;
  std::string_view stored;
  StoredPart part = {};
};

/// The number that a part of a name is, of at most six digits and without zeros before it ("12");
/// nothing for another text.
std::optional<int64_t> number_of(std::string_view part);

/// The tensors under one prefix of a store of another layout, by our names. Immutable to its users.
class RenamedStore final : public TensorStore {
 public:
  /// `names`: the table; an empty one leaves names as they are. Numbers of "%" are counted by
  /// `levels` ("up_blocks.%": levels - 1 - number). A stored tensor under the prefix that no row
  /// names keeps its name.
  RenamedStore(std::shared_ptr<const TensorStore> stored, std::string prefix,
               std::span<const NameRow> names, int64_t levels = 0);

  const StoredTensor* find(std::string_view name) const override;
  std::string_view why_unreadable(std::string_view name) const override;
  std::string stored_name(std::string_view name) const override;
  std::filesystem::path file_of(std::string_view name) const override;
  std::vector<std::string> names() const override;
  std::vector<std::string> unreadable_names() const override;

 private:
  struct Entry {
    std::string stored;  // its whole name
    StoredPart part;
    std::string why_unreadable;
    StoredTensor tensor;  // undefined while it has to be put together and nobody wanted it
  };
  void add(const std::string& name, const std::string& stored, const StoredPart& part);

  std::shared_ptr<const TensorStore> stored_;
  std::string prefix_;
  std::vector<std::string> texts_;  // that rows view
  std::vector<NameRow> rows_;
  int64_t levels_;
  mutable std::mutex mutex_;
  mutable std::map<std::string, Entry, std::less<>> entries_;
};

/// The shape of a tensor that must be there. Throws kNotFound when it is missing, kInvalidArgument
/// when it cannot be read or has another rank.
Shape shape_of(const TensorStore& store, std::string_view name, int rank);

/// How many numbers, from 0 on, stand at "#" in the names of a store that begin like `pattern`
/// ("double_blocks.#."). Throws kInvalidArgument, naming a tensor, where one is left out.
int64_t count_numbered(const TensorStore& store, std::string_view pattern);

}  // namespace flux
