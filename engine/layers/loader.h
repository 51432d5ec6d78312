#pragma once

#include "layers/adapters.h"
#include "ops/ops.h"
#include "weights/weight_scope.h"

namespace flux {

/// The argument of every layer's and model's constructor: the context that packs weights, the place
/// in the component's tensors, and the precision. It is used while loading and not kept.
class Loader {
 public:
  /// The whole component. The context and the store must outlive the loader.
  Loader(Context& ctx, const TensorStore& store, const Precision& precision)
      : ctx_(&ctx),
        scope_(store),
        precision_(precision),
        places_(std::make_shared<std::vector<LinearPlace>>()) {}

  /// The loader of the module `name` inside this one; names are those of diffusers' and
  /// transformers' modules.
  Loader operator/(std::string_view name) const { return with(scope_ / name); }
  Loader operator/(int64_t index) const { return with(scope_ / index); }

  Context& context() const { return *ctx_; }
  const WeightScope& weights() const { return scope_; }
  /// T: the dtype of activations.
  DType dtype() const { return precision_.activations; }
  /// For the linears that do nearly all the work; the others ignore it.
  Quantization quantization() const { return precision_.quantization; }
  AttentionPrecision attention() const { return precision_.attention; }
  /// The linears that were loaded so far, of the whole component.
  std::vector<LinearPlace>& places() const { return *places_; }

  /// The rows that an embedding picks from, in host memory, as they are stored. Throws as
  /// WeightScope::take().
  StoredTensor table(std::string_view name, const Shape& shape) const {
    return in_memory(scope_.take_stored(name, shape), ctx_->threads());
  }

  /// A vector of parameters ([features], f32) where the context computes. Throws as
  /// WeightScope::take().
  ConstTensor vector(std::string_view name, int64_t features) const {
    return to_device(*ctx_, scope_.take_f32(name, {features}));
  }

 private:
  Loader with(WeightScope scope) const {
    Loader inner = *this;
    inner.scope_ = std::move(scope);
    return inner;
  }

  Context* ctx_;
  WeightScope scope_;
  Precision precision_;
  std::shared_ptr<std::vector<LinearPlace>> places_;
};

}  // namespace flux
