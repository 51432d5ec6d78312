#include "weights/tensor_store.h"

#include <map>

namespace flux {

int64_t TensorStore::parameter_count() const {
  int64_t count = 0;
  for (const std::string& name : names()) {
    const ConstTensor& tensor = *find(name);
    if (is_floating_point(tensor.dtype())) count += tensor.numel();
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
    const ConstTensor& tensor = *find(name);
    if (is_floating_point(tensor.dtype())) counts[tensor.dtype()] += tensor.numel();
  }
  DType most = DType::kF32;
  int64_t count = 0;
  for (const auto& [dtype, elements] : counts) {
    if (elements > count) {
      most = dtype;
      count = elements;
    }
  }
  return most;
}

}  // namespace flux
