#pragma once

#include <span>
#include <string>
#include <vector>

#include "adapters/adapter.h"
#include "layers/adapters.h"
#include "weights/tensor_store.h"

namespace flux {

/// An adapter's changes of one of the models, ready to compute with.
struct BoundAdapter {
  AdapterWeights weights;
  /// The tensors of changes that no linear of the model takes, in alphabetical order.
  std::vector<std::string> unused;
};

/// Reads the changes of `model` and packs them for its linears, `places`, where `ctx` computes.
/// What has factors stays a product of them, q, k and v of a fused one each for itself; what has
/// none (differences, DoRA along the input or of LoKr) becomes the matrix that it adds. `dtype`: T
/// of the model. `base` has the model's weights, which DoRA goes by. Throws kInvalidArgument for
/// values that are not finite, and for an adapter that widens a linear, which goes with inputs that
/// this program does not take.
BoundAdapter bind_adapter(Context& ctx, const Adapter& adapter, AdapterModel model,
                          std::span<const LinearPlace> places, const TensorStore& base,
                          DType dtype);

/// About the bytes that bind_adapter() packs of an adapter: what is known before its values are
/// read, without padding.
int64_t packed_bytes(const Adapter& adapter, AdapterModel model, DType dtype);

}  // namespace flux
