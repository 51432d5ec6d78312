#include "layers/linear.h"

namespace flux {

Linear::Linear(Context& ctx, const WeightScope& scope, int64_t in, int64_t out, Bias bias,
               DType dtype)
    : Linear(ctx, scope, {""}, in, out, bias, dtype) {}

Linear::Linear(Context& ctx, const WeightScope& scope, const std::vector<std::string_view>& names,
               int64_t in, int64_t out, Bias bias, DType dtype) {
  std::vector<Tensor> weights;
  std::vector<Tensor> biases;
  for (const std::string_view name : names) {
    const WeightScope part = name.empty() ? scope : scope / name;
    weights.push_back(part.take("weight", {out, in}));
    if (bias == Bias::kYes) biases.push_back(part.take("bias", {out}));
  }
  weights_ = pack_linear(ctx, weights, biases, dtype);
  for (const Tensor& weight : weights) scope.drop_pages(weight);
}

}  // namespace flux
