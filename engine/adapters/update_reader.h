#pragma once

#include <fmt/format.h>

#include <map>
#include <optional>
#include <string>

#include "adapters/adapter.h"
#include "adapters/dialects.h"
#include "adapters/trainer_notes.h"

namespace flux {

/// A tensor of a file.
struct FileTensor {
  std::string name;
  StoredTensor tensor;
};

/// The tensors that a file has for one module, which takes them out as it understands them.
class UpdateReader {
 public:
  /// `file` is for messages. All must outlive the reader.
  UpdateReader(const std::string& file, const std::string& module,
               std::map<TensorRole, FileTensor>& tensors)
      : file_(file), module_(module), tensors_(tensors) {}

  /// What happens to the module's weight; `is_norm`: it is a vector. Nothing where no tensor says
  /// so. What is left of the tensors then changes nothing. Throws kInvalidArgument, naming file and
  /// tensor, for shapes that do not fit together, ranks above kMaxAdapterRank, an alpha that is no
  /// finite number, and forms that are not supported.
  std::optional<Update> weight(bool is_norm, const TrainerNotes& notes);
  /// What is added to its bias: `diff_b`, or the bias of a low-rank update's `up`, which is scaled
  /// as that update is. To be asked after weight().
  std::optional<Update> bias();

 private:
  bool has(TensorRole role) const { return tensors_.contains(role); }
  const std::string& name_of(TensorRole role) const { return tensors_.at(role).name; }
  template <typename... Args>
  [[noreturn]] void refuse(const std::string& tensor, fmt::format_string<Args...> format,
                           Args&&... args) const;
  void refuse_mixtures(bool is_norm) const;
  StoredTensor take(Update& update, TensorRole role);
  StoredTensor take_matrix(Update& update, TensorRole role);
  StoredTensor take_vector(Update& update, TensorRole role);
  /// `whole`, or `left` times `right`.
  Factor take_factor(Update& update, TensorRole whole, TensorRole left, TensorRole right);
  double take_number(Update& update, TensorRole role);
  void check_rank(const std::string& tensor, int64_t rank) const;
  void use_rank(Update& update, const std::string& tensor, int64_t rank) const;
  void read_scale(Update& update, const TrainerNotes& notes);
  void read_dora(Update& update);

  Update low_rank(const TrainerNotes& notes);
  Update kronecker(const TrainerNotes& notes);
  Update hadamard(const TrainerNotes& notes);
  Update difference(bool is_norm);
  Update replacement();
  Update begin() const;

  const std::string& file_;
  const std::string& module_;
  std::map<TensorRole, FileTensor>& tensors_;
  float bias_scale_ = 1.0f;
};

}  // namespace flux
