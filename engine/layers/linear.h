#pragma once

#include <string_view>
#include <vector>

#include "layers/loader.h"

namespace flux {

enum class Bias { kNo, kYes };

/// torch.nn.Linear, or several over the same input computed as one.
class Linear {
 public:
  Linear() = default;
  /// Takes weight ([out, in]) and bias ([out]).
  Linear(const Loader& load, int64_t in, int64_t out, Bias bias = Bias::kYes,
         Quantization quantization = Quantization::kNone);
  /// Several, stacked along the output in the order of `names`; each has `out` features.
  Linear(const Loader& load, const std::vector<std::string_view>& names, int64_t in, int64_t out,
         Bias bias = Bias::kYes, Quantization quantization = Quantization::kNone);

  /// x: [rows, in], out: [rows, out features]; see ops linear().
  void operator()(Context& ctx, const ConstTensor& x, const Tensor& out,
                  const Epilogue& epilogue = {}, Adapters adapters = {}) const;
  /// Its share of a linear over several parts, which `adapters` must outlive; see ops linear().
  LinearPart part(const ConstTensor& x, const Tensor& out, const Epilogue& epilogue = {},
                  Adapters adapters = {}) const;
  bool takes_e4m3() const { return weights_.takes_e4m3(); }
  int64_t out_features() const { return weights_.out_features; }
  int64_t bytes() const { return weights_.packed ? weights_.packed->bytes() : 0; }

 private:
  LinearWeights weights_;
  size_t place_ = 0;  // of LinearPlace in its model
};

}  // namespace flux
