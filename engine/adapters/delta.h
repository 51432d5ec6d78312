#pragma once

#include <functional>
#include <string_view>

#include "adapters/adapter.h"
#include "tensor/tensor.h"

/// The values of changes, in float32 on the host: what each adds, and the factors by which it is
/// applied, which take less memory and time. All of it is done once, at a load.
namespace flux {

/// The values of a weight or bias, in any floating point dtype, on the host: [rows, columns] or
/// [rows].
using ParameterValues = std::function<ConstTensor(const Change&)>;
/// The matrix that an update was trained on: the rows of all its modules one below the other, f32.
/// Zeros stand for rows of which `adapter` has no module, and for columns that an x_embedder has
/// beyond those of its weight.
Tensor trained_matrix(const Adapter& adapter, const Update& update, const ParameterValues& values);

/// Whether the update's trained matrix is needed, by delta() and by read_low_rank().
bool needs_weights(const Update& update);

/// What a change adds to its rows at scale 1, f32 [rows, columns], or [rows] of a vector.
/// `trained`: trained_matrix() of its update, where needs_weights(). Throws kInvalidArgument for
/// values that are not finite, and as decode().
Tensor delta(const Change& change, const ConstTensor& trained = {});

/// A low-rank change as it is applied: y += gains * y + scale * up (down x), with y = W x.
struct LowRankTensors {
  Tensor down;   // [rank, columns]
  Tensor up;     // [rows, rank]
  Tensor gains;  // [rows], f32; undefined: zeros
  float scale = 1.0f;
};
/// Whether an update is LoRA, DoRA of LoRA along the output, or LoHa of ranks whose product is
/// small enough.
bool has_low_rank(const Update& update);
/// Reads those of a change whose update has_low_rank(), down and up in `dtype`. Of an update of a
/// fused matrix in which each part has ranks of its own (the others are zeros: "block-sparse") only
/// those are kept, at least one. `trained`: as for delta(). Throws as delta().
LowRankTensors read_low_rank(const Change& change, DType dtype, const ConstTensor& trained = {});

/// The factors of a LoKr without DoRA, f32: y += scale * rows of (outer (x) inner) x.
struct KroneckerTensors {
  Tensor outer;
  Tensor inner;
  float scale = 1.0f;
};
bool has_kronecker(const Update& update);
KroneckerTensors read_kronecker(const Update& update);

}  // namespace flux
