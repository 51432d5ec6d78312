#include <algorithm>
#include <vector>

#include "ops/cuda/kernels/hopper_linear_launch.h"
#include "ops/cuda/kernels/hopper_linear_plan.h"

/// Linears of bf16 or e4m3 on Hopper with epilogues for bias, GELU, gate and residual, norm and
/// rotation, which thus cost no pass over memory. The two blocks of a cluster take neighbouring
/// tiles; operands that both need are copied half by each, for both. A block has one producer
/// thread that copies, and consumer warpgroups that multiply 64 rows each and store from their
/// registers, a step of the epilogue beside each stage of the next tile. Tiles of all segments
/// (text and image, or the images of a batch) form one sequence of waves; those of a partial last
/// wave are split along N.
namespace flux::cuda {
namespace {

using namespace hopper::linear;

bool has_changes(const HopperLinear& linear) {
  return std::any_of(linear.segments.begin(), linear.segments.end(),
                     [](const auto& segment) { return segment.changes.any(); });
}

/// Whether the kernel can read all that changes the weights of a segment.
bool supports(const HopperLinear::Changes& changes) {
  const auto aligned = [](const void* address, int64_t stride = 0) {
    return reinterpret_cast<uintptr_t>(address) % 16 == 0 && stride % 8 == 0;
  };
  return aligned(changes.factors) && aligned(changes.added, changes.added_stride) &&
         std::all_of(changes.terms.begin(), changes.terms.end(), [&](const auto& term) {
           return term.depth > 0 && aligned(term.x, term.x_stride) && aligned(term.up, term.depth);
         });
}

LinearSizes sizes_of(const HopperLinear& linear, std::span<const int64_t> rows) {
  return {.rows = rows,
          .columns = linear.columns,
          .depth = linear.depth,
          .norm_columns = linear.q_columns + linear.k_columns,
          .residual = linear.segments[0].residual != nullptr,
          .changes = has_changes(linear)};
}

std::vector<int64_t> rows_of(const HopperLinear& linear) {
  std::vector<int64_t> rows;
  for (const HopperLinear::Segment& segment : linear.segments) rows.push_back(segment.rows);
  return rows;
}

}  // namespace

bool hopper_linear_supports(const HopperLinear& linear) {
  const int64_t in_vector = linear.e4m3 ? 16 : 8;  // elements of x and of the weights
  const auto aligned = [](const void* address, int64_t stride = 0, int64_t unit = 8) {
    return reinterpret_cast<uintptr_t>(address) % 16 == 0 && stride % unit == 0;
  };
  const int64_t norm_columns = linear.q_columns + linear.k_columns;
  const bool heads = linear.head_dim == kHeadDim && linear.q_columns % kHeadDim == 0 &&
                     linear.k_columns % kHeadDim == 0 && norm_columns <= linear.columns;
  if (norm_columns > 0 && (!heads || linear.gelu)) return false;
  if (linear.tile >= 0 && norm_columns > 0 && !kTileShapes[linear.tile].can_norm()) return false;
  size_t terms = 0;
  for (const HopperLinear::Segment& segment : linear.segments)
    terms += segment.changes.terms.size();
  return linear.depth % in_vector == 0 && linear.columns % 8 == 0 && !linear.segments.empty() &&
         linear.segments.size() <= kMaxLinearSegments && terms <= kMaxLinearTerms &&
         std::all_of(linear.segments.begin(), linear.segments.end(), [&](const auto& segment) {
           const bool scaled = segment.scales.x != nullptr && segment.scales.w != nullptr &&
                               (!linear.gelu || segment.scales.out != nullptr);
           return segment.rows > 0 && scaled == linear.e4m3 &&
                  aligned(segment.x, segment.x_stride, in_vector) &&
                  aligned(segment.weights, linear.depth) && aligned(segment.scales.w) &&
                  aligned(segment.out, segment.out_stride) &&
                  aligned(segment.residual, segment.residual_stride) && aligned(segment.bias) &&
                  aligned(segment.gate) && aligned(segment.norm.weights[0]) &&
                  aligned(segment.norm.weights[1]) && aligned(segment.norm.cos) &&
                  aligned(segment.norm.sin) && supports(segment.changes) &&
                  (segment.residual == nullptr) == (linear.segments[0].residual == nullptr) &&
                  (segment.residual != nullptr || segment.gate == nullptr) &&
                  !(segment.residual != nullptr && (linear.gelu || norm_columns > 0));
         });
}

bool hopper_linear_is_faster(const HopperLinear& linear, const GpuTraits& gpu) {
  const std::vector<int64_t> rows = rows_of(linear);
  return is_faster_than_library(sizes_of(linear, rows), gpu);
}

cudaError_t hopper_linear(const HopperLinear& linear, const GpuTraits& gpu, cudaStream_t stream) {
  int tile = linear.tile;
  if (tile < 0) {
    const std::vector<int64_t> rows = rows_of(linear);
    tile = best_tile(sizes_of(linear, rows), gpu);
  }
  if (has_changes(linear)) {
    return linear.e4m3 ? launch_e4m3_changes(linear, tile, gpu, stream)
                       : launch_bf16_changes(linear, tile, gpu, stream);
  }
  return linear.e4m3 ? launch_e4m3(linear, tile, gpu, stream)
                     : launch_bf16(linear, tile, gpu, stream);
}

}  // namespace flux::cuda
