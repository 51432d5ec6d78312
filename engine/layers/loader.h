#pragma once

#include "ops/ops.h"
#include "weights/weight_scope.h"

namespace flux {

/// The argument of every layer's and model's constructor: the context that packs weights, the place
/// in the component's tensors, and the precision. It is used while loading and not kept.
class Loader {
 public:
  /// The whole component. The context and the store must outlive the loader.
  Loader(Context& ctx, const TensorStore& store, const Precision& precision)
      : ctx_(&ctx), scope_(store), precision_(precision) {}

  /// The loader of the module `name` inside this one; names are those of diffusers' and
  /// transformers' modules.
  Loader operator/(std::string_view name) const { return {*ctx_, scope_ / name, precision_}; }
  Loader operator/(int64_t index) const { return {*ctx_, scope_ / index, precision_}; }

  Context& context() const { return *ctx_; }
  const WeightScope& weights() const { return scope_; }
  /// T: the dtype of activations.
  DType dtype() const { return precision_.activations; }
  /// For the linears that do nearly all the work; the others ignore it.
  Quantization quantization() const { return precision_.quantization; }
  AttentionPrecision attention() const { return precision_.attention; }

  /// The rows that an embedding picks from, in host memory, as they are stored: a copy, so that a
  /// loaded model does not depend on its files. Throws as WeightScope::take().
  StoredTensor table(std::string_view name, const Shape& shape) const {
    const StoredTensor copy = copy_of(scope_.take_stored(name, shape));
    scope_.drop_pages(name);
    return copy;
  }

  /// A vector of parameters ([features], f32) where the context computes. Throws as
  /// WeightScope::take().
  ConstTensor vector(std::string_view name, int64_t features) const {
    return to_device(*ctx_, scope_.take_f32(name, {features}));
  }

 private:
  Loader(Context& ctx, WeightScope scope, const Precision& precision)
      : ctx_(&ctx), scope_(std::move(scope)), precision_(precision) {}

  Context* ctx_;
  WeightScope scope_;
  Precision precision_;
};

}  // namespace flux
