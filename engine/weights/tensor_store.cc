#include "weights/tensor_store.h"

#include <algorithm>
#include <map>

namespace flux {
namespace {

bool is_number(const StoredTensor& tensor) {
  return !tensor.is_plain() || is_floating_point(tensor.data.dtype());
}

}  // namespace

int64_t TensorStore::parameter_count() const {
  int64_t count = 0;
  for (const std::string& name : names()) {
    const StoredTensor& tensor = *find(name);
    if (is_number(tensor)) count += tensor.numel();
  }
  return count;
}

int64_t TensorStore::bytes() const {
  int64_t bytes = 0;
  for (const std::string& name : names()) bytes += find(name)->bytes();
  return bytes;
}

DType TensorStore::dtype() const {
  std::map<DType, int64_t> counts;
  for (const std::string& name : names()) {
    const StoredTensor& tensor = *find(name);
    if (!is_number(tensor)) continue;
    counts[tensor.is_plain() ? tensor.data.dtype() : DType::kBF16] += tensor.numel();
  }
  const auto most =
      std::max_element(counts.begin(), counts.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == counts.end() ? DType::kF32 : most->first;
}

std::vector<std::pair<std::string, int64_t>> TensorStore::types() const {
  std::map<std::string_view, int64_t> counts;
  for (const std::string& name : names()) {
    const StoredTensor& tensor = *find(name);
    if (is_number(tensor)) counts[tensor.type_name()] += tensor.numel();
  }
  std::vector<std::pair<std::string, int64_t>> types(counts.begin(), counts.end());
  std::stable_sort(types.begin(), types.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  return types;
}

}  // namespace flux
