#pragma once

#include <vector>

#include "ops/ops.h"

namespace flux {

/// The rotary table of a sequence, in the workspace of `ctx`. ids: [tokens, axes] f32 positions
/// (text, then image); axes_dims: the share of head_dim that each axis rotates. Angles are computed
/// in float64. Source: diffusers' FluxPosEmbed with theta 10000; Su et al., RoFormer (2021).
RopeTable make_rope_table(Context& ctx, const std::vector<ConstTensor>& ids,
                          const std::vector<int64_t>& axes_dims);

}  // namespace flux
