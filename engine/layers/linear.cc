#include "layers/linear.h"

namespace flux {

Linear::Linear(const Loader& load, int64_t in, int64_t out, Bias bias, Quantization quantization)
    : Linear(load, {""}, in, out, bias, quantization) {}

Linear::Linear(const Loader& load, const std::vector<std::string_view>& names, int64_t in,
               int64_t out, Bias bias, Quantization quantization) {
  std::vector<StoredTensor> weights;
  std::vector<ConstTensor> biases;
  for (const std::string_view name : names) {
    const WeightScope scope = name.empty() ? load.weights() : load.weights() / name;
    weights.push_back(scope.take_stored("weight", {out, in}));
    if (bias == Bias::kYes) biases.push_back(scope.take("bias", {out}));
  }
  weights_ = pack_linear(load.context(), weights, biases, load.dtype(), quantization);
  for (const std::string_view name : names) {
    (name.empty() ? load.weights() : load.weights() / name).drop_pages("weight");
  }
}

}  // namespace flux
