#pragma once

#include "layers/loader.h"

namespace flux {

/// torch.nn.Conv2d with a bias, on channels-last images.
class Conv2d {
 public:
  Conv2d() = default;
  /// Takes weight ([out, in, kernel, kernel]) and bias ([out]); kernel: 1 or 3.
  Conv2d(const Loader& load, int64_t in, int64_t out, int64_t kernel,
         ConvSize size = ConvSize::kSame);

  /// x: [h, w, in]; out: [h', w', out]; see ops conv2d().
  void operator()(Context& ctx, const ConstTensor& x, const Tensor& out,
                  const ConstTensor& residual = {}) const {
    conv2d(ctx, x, weights_, residual, out);
  }
  int64_t bytes() const { return weights_.packed ? weights_.packed->bytes() : 0; }
  ConvSize size() const { return weights_.size; }
  int64_t in_channels() const { return weights_.in_channels; }
  int64_t out_channels() const { return weights_.out_channels; }

 private:
  Conv2dWeights weights_;
};

}  // namespace flux
