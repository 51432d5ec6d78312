#include "adapters/update_reader.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "models/config_reader.h"
#include "support/error.h"
#include "tensor/format.h"

namespace flux {
namespace {

constexpr TensorRole kLokr[] = {TensorRole::kLokrW1, TensorRole::kLokrW1A, TensorRole::kLokrW1B,
                                TensorRole::kLokrW2, TensorRole::kLokrW2A, TensorRole::kLokrW2B};
constexpr TensorRole kHada[] = {TensorRole::kHadaW1A, TensorRole::kHadaW1B, TensorRole::kHadaW2A,
                                TensorRole::kHadaW2B};

/// How a role ends the names of most files, for messages about what is missing.
std::string_view ending_of(TensorRole role) {
  switch (role) {
    case TensorRole::kDown:
      return "lora_A or lora_down";
    case TensorRole::kUp:
      return "lora_B or lora_up";
    case TensorRole::kLokrW1:
      return "lokr_w1";
    case TensorRole::kLokrW1A:
      return "lokr_w1_a";
    case TensorRole::kLokrW1B:
      return "lokr_w1_b";
    case TensorRole::kLokrW2:
      return "lokr_w2";
    case TensorRole::kLokrW2A:
      return "lokr_w2_a";
    case TensorRole::kLokrW2B:
      return "lokr_w2_b";
    case TensorRole::kHadaW1A:
      return "hada_w1_a";
    case TensorRole::kHadaW1B:
      return "hada_w1_b";
    case TensorRole::kHadaW2A:
      return "hada_w2_a";
    case TensorRole::kHadaW2B:
      return "hada_w2_b";
    default:
      return "that";
  }
}

bool any_of(const std::map<TensorRole, FileTensor>& tensors, std::span<const TensorRole> roles) {
  return std::any_of(roles.begin(), roles.end(),
                     [&](TensorRole role) { return tensors.contains(role); });
}

}  // namespace

template <typename... Args>
void UpdateReader::refuse(const std::string& tensor, fmt::format_string<Args...> format,
                          Args&&... args) const {
  fail(ErrorCode::kInvalidArgument, "{}: tensor '{}' {}", file_, tensor,
       fmt::format(format, std::forward<Args>(args)...));
}

Update UpdateReader::begin() const {
  Update update;
  update.file = file_;
  update.name = module_;
  return update;
}

StoredTensor UpdateReader::take(Update& update, TensorRole role) {
  const auto found = tensors_.find(role);
  if (found == tensors_.end()) {
    fail(ErrorCode::kInvalidArgument,
         "{}: '{}' has no {} beside the other tensors of its change; the file is damaged, download "
         "it again",
         file_, module_, ending_of(role));
  }
  const StoredTensor tensor = found->second.tensor;
  if (tensor.is_plain() && !is_floating_point(tensor.data.dtype())) {
    refuse(found->second.name, "is stored as {}, expected a floating point type; save it as BF16",
           tensor.type_name());
  }
  update.tensors.push_back(std::move(found->second.name));
  tensors_.erase(found);
  return tensor;
}

StoredTensor UpdateReader::take_matrix(Update& update, TensorRole role) {
  const StoredTensor tensor = take(update, role);
  const Shape& shape = tensor.shape;
  const bool fits = shape.rank() == 2 && shape[0] > 0 && shape[1] > 0 && shape[0] <= kMaxSize &&
                    shape[1] <= kMaxSize;
  if (!fits) {
    refuse(update.tensors.back(), "has shape {}, expected a matrix of 1 to {} rows and columns",
           shape, kMaxSize);
  }
  return tensor;
}

StoredTensor UpdateReader::take_vector(Update& update, TensorRole role) {
  const StoredTensor tensor = take(update, role);
  const Shape& shape = tensor.shape;
  if (shape.rank() != 1 || shape[0] < 1 || shape[0] > kMaxSize) {
    refuse(update.tensors.back(), "has shape {}, expected a vector of 1 to {} values", shape,
           kMaxSize);
  }
  return tensor;
}

void UpdateReader::check_rank(const std::string& tensor, int64_t rank) const {
  if (rank > kMaxAdapterRank) {
    refuse(tensor, "has rank {}, and at most {} is applied; resize the adapter to a lower rank",
           rank, kMaxAdapterRank);
  }
}

/// Alpha is divided by one rank: all products of an update must have it.
void UpdateReader::use_rank(Update& update, const std::string& tensor, int64_t rank) const {
  check_rank(tensor, rank);
  if (update.rank != 0 && update.rank != rank) {
    refuse(tensor, "has rank {}, and another one of its module has {}; the file is damaged", rank,
           update.rank);
  }
  update.rank = rank;
}

Factor UpdateReader::take_factor(Update& update, TensorRole whole, TensorRole left,
                                 TensorRole right) {
  Factor factor;
  if (has(whole)) {
    for (const TensorRole role : {left, right}) {
      if (has(role)) refuse(name_of(role), "stands beside '{}': one is expected", name_of(whole));
    }
    factor.whole = take_matrix(update, whole);
    return factor;
  }
  factor.left = take_matrix(update, left);
  factor.right = take_matrix(update, right);
  const std::string& tensor = update.tensors.back();
  if (factor.left.shape[1] != factor.right.shape[0]) {
    refuse(tensor, "has shape {}, and '{}', which it is multiplied with, {}: the ranks disagree",
           factor.right.shape, update.tensors[update.tensors.size() - 2], factor.left.shape);
  }
  use_rank(update, tensor, factor.right.shape[0]);
  return factor;
}

double UpdateReader::take_number(Update& update, TensorRole role) {
  const auto found = tensors_.find(role);
  const std::string name = found->second.name;
  const StoredTensor tensor = found->second.tensor;
  if (tensor.numel() != 1) refuse(name, "has shape {}, expected one number", tensor.shape);
  double value = 0;
  const bool whole = tensor.is_plain() && !is_floating_point(tensor.data.dtype());
  if (!whole) {
    value = decode(tensor, DType::kF32).data<float>()[0];
  } else if (tensor.data.dtype() == DType::kI64) {
    value = static_cast<double>(in_memory(tensor).data.data<int64_t>()[0]);
  } else if (tensor.data.dtype() == DType::kI32) {
    value = in_memory(tensor).data.data<int32_t>()[0];
  } else {
    refuse(name, "is stored as {}, expected a floating point type, i32 or i64", tensor.type_name());
  }
  if (!std::isfinite(value)) refuse(name, "is {}, expected a finite number", value);
  update.tensors.push_back(name);
  tensors_.erase(found);
  return value;
}

void UpdateReader::read_scale(Update& update, const TrainerNotes& notes) {
  const auto alpha = has(TensorRole::kAlpha)
                         ? std::optional(take_number(update, TensorRole::kAlpha))
                         : std::nullopt;
  if (update.rank == 0) return;  // whole factors: LyCORIS writes an alpha, which counts for nothing
  const auto rank = static_cast<double>(update.rank);
  double scale = 1;
  if (alpha) {
    scale = *alpha / rank;
  } else if (const auto noted = notes.scale_of(module_, update.rank)) {
    scale = *noted;
  }
  update.alpha = static_cast<float>(scale * rank);
  update.scale = static_cast<float>(scale);
}

void UpdateReader::read_dora(Update& update) {
  if (!has(TensorRole::kDoraScale)) return;
  const StoredTensor tensor = take(update, TensorRole::kDoraScale);
  const Shape& shape = tensor.shape;
  const bool of_rows = shape == Shape{update.rows, 1} || shape == Shape{update.rows};
  const bool of_columns = shape == Shape{1, update.columns};
  if (!of_rows && !of_columns) {
    refuse(update.tensors.back(), "has shape {}, expected [{}, 1] or [1, {}]", shape, update.rows,
           update.columns);
  }
  update.dora_scale = tensor;
  update.dora_axis = of_rows ? Update::Axis::kRows : Update::Axis::kColumns;
}

Update UpdateReader::low_rank(const TrainerNotes& notes) {
  Update update = begin();
  const StoredTensor down = take_matrix(update, TensorRole::kDown);
  const StoredTensor up = take_matrix(update, TensorRole::kUp);
  const std::string& tensor = update.tensors.back();
  if (up.shape[1] != down.shape[0]) {
    refuse(tensor, "has shape {}, and '{}' {}: the ranks disagree; the file is damaged", up.shape,
           update.tensors.front(), down.shape);
  }
  use_rank(update, tensor, down.shape[0]);
  update.rows = up.shape[0];
  update.columns = down.shape[1];
  update.values = LowRank{down, up};
  read_scale(update, notes);
  bias_scale_ = update.scale;
  return update;
}

Update UpdateReader::kronecker(const TrainerNotes& notes) {
  Update update = begin();
  const Factor outer =
      take_factor(update, TensorRole::kLokrW1, TensorRole::kLokrW1A, TensorRole::kLokrW1B);
  const Factor inner =
      take_factor(update, TensorRole::kLokrW2, TensorRole::kLokrW2A, TensorRole::kLokrW2B);
  update.rows = outer.rows() * inner.rows();
  update.columns = outer.columns() * inner.columns();
  if (update.rows > kMaxSize || update.columns > kMaxSize) {
    refuse(update.tensors.front(), "makes a change of shape [{}, {}], and at most {} are allowed",
           update.rows, update.columns, kMaxSize);
  }
  update.values = Kronecker{outer, inner};
  read_scale(update, notes);
  return update;
}

Update UpdateReader::hadamard(const TrainerNotes& notes) {
  Update update = begin();
  // No role is that of a whole one.
  const auto product = [&](TensorRole left, TensorRole right) {
    return take_factor(update, TensorRole::kTucker, left, right);
  };
  const Factor first = product(TensorRole::kHadaW1A, TensorRole::kHadaW1B);
  const Factor second = product(TensorRole::kHadaW2A, TensorRole::kHadaW2B);
  update.rows = first.rows();
  update.columns = first.columns();
  if (second.rows() != update.rows || second.columns() != update.columns) {
    refuse(update.tensors.back(), "makes a product of shape [{}, {}], expected [{}, {}]",
           second.rows(), second.columns(), update.rows, update.columns);
  }
  update.values = Hadamard{first, second};
  read_scale(update, notes);
  return update;
}

Update UpdateReader::difference(bool is_norm) {
  Update update = begin();
  const StoredTensor values = is_norm ? take_vector(update, TensorRole::kDifference)
                                      : take_matrix(update, TensorRole::kDifference);
  update.rows = values.shape[0];
  update.columns = is_norm ? 0 : values.shape[1];
  update.values = Difference{values};
  return update;
}

Update UpdateReader::replacement() {
  Update update = begin();
  const StoredTensor values = take_vector(update, TensorRole::kWhole);
  update.rows = values.shape[0];
  update.values = Replacement{values};
  return update;
}

/// One kind of change for a weight is expected, of those that are supported.
void UpdateReader::refuse_mixtures(bool is_norm) const {
  if (has(TensorRole::kTucker)) {
    refuse(name_of(TensorRole::kTucker),
           "is of the tucker form, which convolutions have; FLUX.1 has linears only");
  }
  constexpr TensorRole kLow[] = {TensorRole::kDown, TensorRole::kUp};
  constexpr TensorRole kDifference[] = {TensorRole::kDifference};
  const std::span<const TensorRole> kinds[] = {kLow, kLokr, kHada, kDifference};
  const std::string* first = nullptr;
  for (const auto kind : kinds) {
    const auto found = std::find_if(kind.begin(), kind.end(), [&](auto role) { return has(role); });
    if (found == kind.end()) continue;
    if (first != nullptr) {
      refuse(name_of(*found), "changes what '{}' changes, too: one of them is expected", *first);
    }
    if (is_norm && kind.data() != kDifference) {
      refuse(name_of(*found), "is of a product, and '{}' is a norm: a vector is expected", module_);
    }
    first = &name_of(*found);
  }
}

std::optional<Update> UpdateReader::weight(bool is_norm, const TrainerNotes& notes) {
  refuse_mixtures(is_norm);
  std::optional<Update> update;
  if (has(TensorRole::kDown) || has(TensorRole::kUp)) {
    update = low_rank(notes);
  } else if (any_of(tensors_, kLokr)) {
    update = kronecker(notes);
  } else if (any_of(tensors_, kHada)) {
    update = hadamard(notes);
  } else if (has(TensorRole::kDifference)) {
    update = difference(is_norm);
  } else if (is_norm && has(TensorRole::kWhole)) {
    return replacement();
  }
  if (update && !is_norm) read_dora(*update);
  return update;
}

std::optional<Update> UpdateReader::bias() {
  const bool differs = has(TensorRole::kBiasDifference);
  const TensorRole role = differs ? TensorRole::kBiasDifference : TensorRole::kUpBias;
  if (!has(role)) return std::nullopt;
  if (differs && has(TensorRole::kUpBias)) {
    refuse(name_of(TensorRole::kUpBias), "stands beside '{}': one is expected", name_of(role));
  }
  Update update = begin();
  const StoredTensor values = take_vector(update, role);
  update.rows = values.shape[0];
  update.scale = differs ? 1.0f : bias_scale_;
  update.values = Difference{values};
  return update;
}

}  // namespace flux
