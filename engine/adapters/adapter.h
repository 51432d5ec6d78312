#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "adapters/modules.h"
#include "tensor/encoding.h"

/// What an adapter (a LoRA, LoKr, LoHa, DoRA, ...) changes, whatever dialect its file is written
/// in. Everything here is immutable after it has been read. Tensors keep their place in the file
/// and are read by who applies them: shapes and ranks have been checked, values have not.
namespace flux {

/// The largest rank that is applied.
inline constexpr int64_t kMaxAdapterRank = 256;

/// A matrix as an adapter stores it: whole, or a product.
struct Factor {
  StoredTensor whole;  // [rows, columns]; undefined: left times right
  StoredTensor left;   // [rows, rank]
  StoredTensor right;  // [rank, columns]

  bool is_whole() const { return whole.defined(); }
  int64_t rows() const { return is_whole() ? whole.shape[0] : left.shape[0]; }
  int64_t columns() const { return is_whole() ? whole.shape[1] : right.shape[1]; }
};

/// LoRA: up times down.
struct LowRank {
  StoredTensor down;  // A, [rank, columns]
  StoredTensor up;    // B, [rows, rank]
};
/// LoKr: the Kronecker product, element (i * inner rows + k, j * inner columns + l) of which is
/// outer(i, j) * inner(k, l).
struct Kronecker {
  Factor outer;
  Factor inner;
};
/// LoHa: the product element by element.
struct Hadamard {
  Factor first;
  Factor second;
};
/// What is added, as it is: [rows, columns] of a weight, [rows] of a norm's weight or of a bias.
struct Difference {
  StoredTensor values;
};
/// What takes the place of a norm's weight: [rows].
struct Replacement {
  StoredTensor values;
};

/// A change as it was trained: of one matrix, which may be the weights of several modules one below
/// the other ("fused": q, k and v), or of one vector.
///
/// The matrix W becomes W + D with D = scale * P, P being what `values` says; with a dora_scale it
/// becomes (W + D) * dora_scale / norm, where norm is the Euclidean norm of each row (kRows) or
/// column (kColumns) of W + D: of the whole fused matrix.
struct Update {
  enum class Axis : uint8_t { kRows, kColumns };

  std::string file;  // for messages, as the name of its module there
  std::string name;
  std::variant<LowRank, Kronecker, Hadamard, Difference, Replacement> values;
  int64_t rows = 0;
  int64_t columns = 0;               // 0: a vector
  int64_t rank = 0;                  // 0: nothing in it is a product
  float alpha = 0.0f;                // the rank where the file has none
  float scale = 1.0f;                // alpha / rank; 1 where there is no rank
  StoredTensor dora_scale;           // [rows] or [columns] elements; undefined: no DoRA
  Axis dora_axis = Axis::kRows;      // what each element of it belongs to
  std::vector<std::string> tensors;  // its names in the file

  bool is_dora() const { return dora_scale.defined(); }
  /// "LoRA", "LoKr", "LoHa", "difference", "replacement"; with a dora_scale "DoRA", "DoRA of LoKr".
  std::string_view kind() const;
};

/// What an update does to rows of one parameter of a module. Those of one adapter do not overlap.
struct Change {
  AdapterModel model = AdapterModel::kTransformer;
  std::string module;  // as diffusers or transformers name it: "transformer_blocks.0.attn.to_q"
  int64_t block = -1;  // the number of its block, in `module`; -1: it is in none
  Parameter parameter = Parameter::kWeight;
  int64_t begin = 0;  // rows [begin, end) of the module's parameter
  int64_t end = 0;
  int64_t first = 0;                     // the update's row that row `begin` is
  std::shared_ptr<const Update> update;  // shared by the parts of a fused matrix

  int64_t rows() const { return end - begin; }
};

/// The sizes of a base model that an adapter's shapes tell; 0: they do not.
struct AdapterSizes {
  std::array<int64_t, kWidths> widths{};
  int64_t double_blocks = 0;  // blocks up to the last one that is changed
  int64_t single_blocks = 0;
  int64_t clip_layers = 0;
  int64_t t5_layers = 0;

  int64_t operator[](Width width) const { return widths[static_cast<size_t>(width)]; }
  int64_t& operator[](Width width) { return widths[static_cast<size_t>(width)]; }
  friend bool operator==(const AdapterSizes&, const AdapterSizes&) = default;
};

struct Adapter {
  std::string file;                   // for messages
  std::vector<std::string> dialects;  // "kohya", "diffusers", ...: in alphabetical order
  std::vector<Change> changes;        // by model, module, parameter and row
  std::vector<std::string> unused;    // tensors that change nothing, in alphabetical order
  AdapterSizes sizes;
  size_t tensors = 0;  // of the file
  int64_t bytes = 0;   // of the file's tensors
  /// What its trainer noted that a user may want to know, bounded: "ss_base_model_version", ...
  std::map<std::string, std::string, std::less<>> notes;
};

}  // namespace flux
