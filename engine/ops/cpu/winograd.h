#pragma once

#include "ops/cpu/tile_kernel.h"

/// f32 convolutions with 3x3 kernels by Winograd's minimal filtering: 4/9 of the products of a
/// direct convolution. Sums are rounded a few times more, to about 3e-7 of their size.
namespace flux::cpu {

/// Whether the shape is one that this is made for: f32, 3x3, enough channels to pay.
bool winograd_suits(const ConvolutionShape& shape);

/// The height of the tiles; their width is kTileWidth of conv2d.cc.
int64_t winograd_tile_height();

/// For a shape that suits and has the tiles' height. As tile_kernel() and weight_packer().
std::shared_ptr<const TileKernel> winograd_tile_kernel(const ConvolutionShape& shape);
std::unique_ptr<WeightPacker> winograd_weight_packer(const ConvolutionShape& shape);

}  // namespace flux::cpu
