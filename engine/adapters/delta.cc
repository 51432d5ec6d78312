#include "adapters/delta.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "support/error.h"
#include "tensor/format.h"

namespace flux {
namespace {

/// Rows that are worked on: of an update's matrix.
struct Rows {
  int64_t begin;
  int64_t end;
  int64_t count() const { return end - begin; }
};

Tensor zeros(const Shape& shape) {
  const Tensor tensor = Tensor::allocate(shape, DType::kF32);
  std::fill_n(tensor.data<float>(), tensor.numel(), 0.0f);
  return tensor;
}

/// The values of a tensor, or of some of its rows.
class Reader {
 public:
  explicit Reader(const Update& update) : update_(update) {}

  Tensor read(const StoredTensor& tensor) const {
    const Tensor values = decode(tensor, DType::kF32);
    const float* begin = values.data<float>();
    const float* end = begin + values.numel();
    const float* bad = std::find_if(begin, end, [](float value) { return !std::isfinite(value); });
    check(bad == end, ErrorCode::kInvalidArgument,
          "{}: the tensors of '{}' hold {}: finite numbers are expected; use another file",
          update_.file, update_.name, bad == end ? 0.0f : *bad);
    return values;
  }
  Tensor read(const StoredTensor& tensor, Rows rows) const {
    return read(slice(tensor, rows.begin, rows.end));
  }

  /// Rows of left times right, summed in double.
  Tensor product(const StoredTensor& left, const StoredTensor& right, Rows rows) const {
    const Tensor a = read(left, rows);
    const Tensor b = read(right);
    const Tensor out = Tensor::allocate({rows.count(), b.size(1)}, DType::kF32);
    std::vector<double> sums(static_cast<size_t>(b.size(1)));
    for (int64_t i = 0; i < rows.count(); ++i) {
      std::fill(sums.begin(), sums.end(), 0.0);
      for (int64_t k = 0; k < b.size(0); ++k) {
        const double factor = a[i].data<float>()[k];
        const float* row = b[k].data<float>();
        for (size_t j = 0; j < sums.size(); ++j) sums[j] += factor * row[j];
      }
      std::copy(sums.begin(), sums.end(), out[i].data<float>());
    }
    return out;
  }

  Tensor factor(const Factor& factor, Rows rows) const {
    return factor.is_whole() ? read(factor.whole, rows) : product(factor.left, factor.right, rows);
  }
  Tensor factor(const Factor& whole) const { return factor(whole, {0, whole.rows()}); }

 private:
  const Update& update_;
};

/// P of an update: see Update.
struct Product {
  const Reader& reader;
  Rows rows;

  Tensor operator()(const LowRank& values) const {
    return reader.product(values.up, values.down, rows);
  }

  Tensor operator()(const Kronecker& values) const {
    const Tensor outer = reader.factor(values.outer);
    const Tensor inner = reader.factor(values.inner);
    const int64_t inner_rows = inner.size(0);
    const int64_t inner_columns = inner.size(1);
    const Tensor out = Tensor::allocate({rows.count(), outer.size(1) * inner_columns}, DType::kF32);
    for (int64_t i = 0; i < rows.count(); ++i) {
      const int64_t row = rows.begin + i;
      const float* left = outer[row / inner_rows].data<float>();
      const float* right = inner[row % inner_rows].data<float>();
      float* to = out[i].data<float>();
      for (int64_t j = 0; j < outer.size(1); ++j) {
        for (int64_t l = 0; l < inner_columns; ++l) *to++ = left[j] * right[l];
      }
    }
    return out;
  }

  Tensor operator()(const Hadamard& values) const {
    Tensor out = reader.factor(values.first, rows);
    const Tensor second = reader.factor(values.second, rows);
    float* to = out.data<float>();
    for (int64_t i = 0; i < out.numel(); ++i) to[i] *= second.data<float>()[i];
    return out;
  }

  Tensor operator()(const Difference& values) const { return reader.read(values.values, rows); }
  Tensor operator()(const Replacement& values) const { return reader.read(values.values, rows); }
};

/// scale * P for some rows.
Tensor scaled_product(const Update& update, const Reader& reader, Rows rows) {
  Tensor out = std::visit(Product{reader, rows}, update.values);
  for (int64_t i = 0; i < out.numel(); ++i) out.data<float>()[i] *= update.scale;
  return out;
}

/// The norms of the rows or columns of a matrix, as the update's dora_axis says.
std::vector<double> norms(const Tensor& matrix, Update::Axis axis) {
  const bool of_rows = axis == Update::Axis::kRows;
  std::vector<double> sums(static_cast<size_t>(matrix.size(of_rows ? 0 : 1)), 0.0);
  for (int64_t i = 0; i < matrix.size(0); ++i) {
    const float* row = matrix[i].data<float>();
    for (int64_t j = 0; j < matrix.size(1); ++j) {
      const double value = row[j];
      sums[static_cast<size_t>(of_rows ? i : j)] += value * value;
    }
  }
  for (double& sum : sums) sum = std::sqrt(sum);
  return sums;
}

/// A row or column of zeros has no direction that a length could be given to.
double dora_factor(float scale, double length) { return length == 0 ? 0 : scale / length; }

/// W + D of some rows.
Tensor changed_rows(const Update& update, const Reader& reader, const ConstTensor& trained,
                    Rows rows) {
  const Tensor changed = scaled_product(update, reader, rows);
  for (int64_t i = 0; i < rows.count(); ++i) {
    const float* weights = trained[rows.begin + i].data<float>();
    float* to = changed[i].data<float>();
    for (int64_t j = 0; j < update.columns; ++j) to[j] += weights[j];
  }
  return changed;
}

/// dora_scale / norm of some rows, where the norms are those of rows.
std::vector<double> dora_factors(const Update& update, const Reader& reader,
                                 const ConstTensor& trained, Rows rows) {
  constexpr int64_t kTogether = 128;  // rows of W + D that are there at once
  const Tensor scales = reader.read(update.dora_scale);
  std::vector<double> factors;
  for (int64_t begin = rows.begin; begin < rows.end; begin += kTogether) {
    const Rows some{begin, std::min(rows.end, begin + kTogether)};
    const Tensor changed = changed_rows(update, reader, trained, some);
    for (const double length : norms(changed, Update::Axis::kRows)) {
      const int64_t row = rows.begin + std::ssize(factors);
      factors.push_back(dora_factor(scales.data<float>()[row], length));
    }
  }
  return factors;
}

/// (W + D) * dora_scale / norm - W. Norms of columns are those of all rows, so D is made of all.
Tensor dora_delta(const Update& update, const Reader& reader, const ConstTensor& trained,
                  Rows rows) {
  const bool of_rows = update.dora_axis == Update::Axis::kRows;
  const Rows needed = of_rows ? rows : Rows{0, update.rows};
  const Tensor changed = changed_rows(update, reader, trained, needed);
  const std::vector<double> norm = norms(changed, update.dora_axis);
  const Tensor scales = reader.read(update.dora_scale);
  const Tensor out = changed.slice(0, rows.begin - needed.begin, rows.end - needed.begin);
  for (int64_t i = 0; i < rows.count(); ++i) {
    const float* weights = trained[rows.begin + i].data<float>();
    float* to = out[i].data<float>();
    for (int64_t j = 0; j < update.columns; ++j) {
      const int64_t at = of_rows ? rows.begin + i : j;
      const double length = norm[static_cast<size_t>(of_rows ? i : j)];
      to[j] =
          static_cast<float>(to[j] * dora_factor(scales.data<float>()[at], length) - weights[j]);
    }
  }
  return out;
}

/// The columns of [rows, rank] from the first to behind the last that is not all zeros; one where
/// all are.
std::pair<int64_t, int64_t> used_ranks(const Tensor& up) {
  const int64_t rank = up.size(1);
  int64_t begin = rank;
  int64_t end = 0;
  for (int64_t i = 0; i < up.size(0); ++i) {
    const float* row = up[i].data<float>();
    int64_t first = 0;
    while (first < begin && row[first] == 0.0f) ++first;
    begin = first;
    int64_t last = rank;
    while (last > end && row[last - 1] == 0.0f) --last;
    end = std::max(end, last);
  }
  return end == 0 ? std::pair<int64_t, int64_t>(0, 1) : std::pair(begin, end);
}

/// Columns (p, q) of a matrix of which the element (i, (p, q)) is a(i, p) b(i, q).
Tensor products_of_columns(const Tensor& a, const Tensor& b) {
  const Tensor out = Tensor::allocate({a.size(0), a.size(1) * b.size(1)}, DType::kF32);
  for (int64_t i = 0; i < a.size(0); ++i) {
    float* to = out[i].data<float>();
    for (int64_t p = 0; p < a.size(1); ++p) {
      for (int64_t q = 0; q < b.size(1); ++q) *to++ = a[i].data<float>()[p] * b[i].data<float>()[q];
    }
  }
  return out;
}
/// The same of rows.
Tensor products_of_rows(const Tensor& a, const Tensor& b) {
  const Tensor out = Tensor::allocate({a.size(0) * b.size(0), a.size(1)}, DType::kF32);
  for (int64_t row = 0; row < out.size(0); ++row) {
    const float* left = a[row / b.size(0)].data<float>();
    const float* right = b[row % b.size(0)].data<float>();
    for (int64_t j = 0; j < a.size(1); ++j) out[row].data<float>()[j] = left[j] * right[j];
  }
  return out;
}

/// The two halves of an update that has_low_rank(), f32: of all columns, and of some rows.
struct Halves {
  const Reader& reader;
  Rows rows;

  std::pair<Tensor, Tensor> operator()(const LowRank& values) const {
    return {reader.read(values.down), reader.read(values.up, rows)};
  }
  std::pair<Tensor, Tensor> operator()(const Hadamard& values) const {
    const auto& [first, second] = values;
    return {products_of_rows(reader.read(first.right), reader.read(second.right)),
            products_of_columns(reader.read(first.left, rows), reader.read(second.left, rows))};
  }
  template <typename Other>
  std::pair<Tensor, Tensor> operator()(const Other&) const {
    fail(ErrorCode::kInternal, "an update of no low rank");
  }
};

}  // namespace

Tensor trained_matrix(const Adapter& adapter, const Update& update, const ParameterValues& values) {
  const Tensor matrix =
      zeros(update.columns == 0 ? Shape{update.rows} : Shape{update.rows, update.columns});
  for (const Change& change : adapter.changes) {
    if (change.update.get() != &update) continue;
    const ConstTensor rows = values(change).slice(0, change.begin, change.end);
    const Tensor own = matrix.slice(0, change.first, change.first + change.rows());
    copy_convert(rows, rows.rank() == 1 ? own : own.slice(1, 0, rows.size(1)));
  }
  return matrix;
}

bool needs_weights(const Update& update) {
  return update.is_dora() || std::holds_alternative<Replacement>(update.values);
}

Tensor delta(const Change& change, const ConstTensor& trained) {
  const Update& update = *change.update;
  const Reader reader(update);
  const Rows rows{change.first, change.first + change.rows()};
  if (update.is_dora()) return dora_delta(update, reader, trained, rows);
  Tensor out = scaled_product(update, reader, rows);
  if (needs_weights(update)) {
    const float* weights = trained.slice(0, rows.begin, rows.end).data<float>();
    for (int64_t i = 0; i < out.numel(); ++i) out.data<float>()[i] -= weights[i];
  }
  return out;
}

bool has_low_rank(const Update& update) {
  if (std::holds_alternative<LowRank>(update.values)) {
    return !update.is_dora() || update.dora_axis == Update::Axis::kRows;
  }
  const auto* loha = std::get_if<Hadamard>(&update.values);
  if (loha == nullptr || update.is_dora() || loha->first.is_whole() || loha->second.is_whole()) {
    return false;
  }
  return loha->first.left.shape[1] * loha->second.left.shape[1] <= kMaxAdapterRank;
}

LowRankTensors read_low_rank(const Change& change, DType dtype, const ConstTensor& trained) {
  const Update& update = *change.update;
  const Reader reader(update);
  const Rows rows{change.first, change.first + change.rows()};
  const auto [down, up] = std::visit(Halves{reader, rows}, update.values);
  const auto [begin, end] = used_ranks(up);
  LowRankTensors tensors{to_dtype(down.slice(0, begin, end), dtype), {}, {}, update.scale};
  if (update.is_dora()) {
    // (W + s B A) f = W + (f - 1) W + (f s B) A
    const std::vector<double> factors = dora_factors(update, reader, trained, rows);
    tensors.gains = Tensor::allocate({rows.count()}, DType::kF32);
    tensors.scale = 1.0f;
    for (int64_t i = 0; i < rows.count(); ++i) {
      const double factor = factors[static_cast<size_t>(i)];
      tensors.gains.data<float>()[i] = static_cast<float>(factor - 1);
      for (int64_t k = 0; k < up.size(1); ++k) {
        up[i].data<float>()[k] *= static_cast<float>(factor * update.scale);
      }
    }
  }
  tensors.up = to_dtype(up.slice(1, begin, end), dtype);
  return tensors;
}

bool has_kronecker(const Update& update) {
  return std::holds_alternative<Kronecker>(update.values) && !update.is_dora();
}

KroneckerTensors read_kronecker(const Update& update) {
  const auto& values = std::get<Kronecker>(update.values);
  const Reader reader(update);
  return {reader.factor(values.outer), reader.factor(values.inner), update.scale};
}

}  // namespace flux
