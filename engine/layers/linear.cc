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
  LinearPlace place{.modules = {}, .in_features = in, .out_features = out};
  for (const std::string_view name : names) place.modules.push_back(load.weights().full_name(name));
  place_ = load.places().size();
  load.places().push_back(std::move(place));
}

void Linear::operator()(Context& ctx, const ConstTensor& x, const Tensor& out,
                        const Epilogue& epilogue, Adapters adapters) const {
  const LinearPart whole = part(x, out, epilogue, adapters);
  linear(ctx, {&whole, 1});
}

LinearPart Linear::part(const ConstTensor& x, const Tensor& out, const Epilogue& epilogue,
                        Adapters adapters) const {
  LinearPart part{x, &weights_, epilogue, out};
  for (const AppliedAdapter& adapter : adapters) {
    for (const LinearChange& change : adapter.weights->by_linear[place_]) {
      part.terms.push_back({&change.weights, adapter.scale * change.scale});
    }
  }
  return part;
}

}  // namespace flux
